"""A group that fails by itself at the same step is restarted twice; after a loss, always."""

from pathlib import Path

import pytest
import ray.exceptions
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerHealthCheckFailedError,
)
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from pipelines.cli.ray_errors import explain_failure, is_mistake
from pipelines.training.restarts import NoProgress, Restarts, lost
from pipelines.worker.messages import MESSAGE, Started, StepsTrained


def raised(text: str) -> Exception:
    """What Ray Train hands on for what a worker raised."""
    return UserExceptionWithTraceback(
        RuntimeError(), f"Traceback (most recent call last):\n  File ...\n{text}\n"
    )


BUG = raised("ValueError: boom")
KILLED = WorkerHealthCheckFailedError(
    "A worker health check failed.", ray.exceptions.ActorDiedError()
)
PEER = raised("RuntimeError: [pair.cc:547] Connection closed by peer [127.0.0.1]:4321 (gloo)")


def group(restarts: Restarts, reached: int, *errors: Exception) -> None:
    """A worker group that starts, trains until a step and fails."""
    started = Started(step=0, plan="", notes=())
    steps = StepsTrained(records=[{"step": step} for step in range(1, reached + 1)])
    for message in (started, steps) if reached else (started,):
        restarts.after_report(None, [{MESSAGE: message}, {}], None)
    restarts.after_exception(None, dict(enumerate(errors)))


def test_two_restarts_in_vain_are_the_last() -> None:
    restarts = Restarts()
    group(restarts, 300, BUG)
    group(restarts, 300, BUG, PEER)
    with pytest.raises(NoProgress, match=r"further than step 300 .* ValueError: boom$"):
        group(restarts, 290, BUG)


def test_a_fault_before_the_first_step_ends_too() -> None:
    restarts = Restarts()
    group(restarts, 0, BUG)
    group(restarts, 0, BUG)
    with pytest.raises(NoProgress, match="further than step 0"):
        group(restarts, 0, BUG)


def test_a_newer_step_or_a_lost_worker_begins_the_count_anew() -> None:
    restarts = Restarts()
    for reached, errors in (
        *((300, (BUG,)), (300, (BUG,))),
        *((310, (BUG,)), (310, (BUG,))),
        *((310, (PEER, KILLED)), (310, (BUG,))),
        (311, (BUG,)),
        *((10, (KILLED,)), (10, (KILLED,)), (10, (KILLED,)), (10, (PEER,)), (10, (PEER,))),
        (311, (BUG,)),
    ):
        group(restarts, reached, *errors)
    with pytest.raises(NoProgress):
        group(restarts, 311, BUG)


@pytest.mark.usefixtures("ray_session")
def test_ray_train_ends_a_training_that_would_restart_forever(tmp_path: Path) -> None:
    def boom() -> None:  # sent by value: the workers import nothing of this file
        raise ValueError("boom")

    trainer = DataParallelTrainer(
        boom,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.1}),
        run_config=RunConfig(
            storage_path=str(tmp_path),
            failure_config=FailureConfig(max_failures=-1),
            callbacks=[Restarts()],
        ),
    )
    with pytest.raises(TrainingFailedError) as raised:
        trainer.fit()
    assert not is_mistake(raised.value)
    assert str(explain_failure("pretrain", raised.value)) == (
        "stage pretrain failed: 2 restarts in a row came no further than step 0 and lost no worker:"
        " ValueError: boom"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KILLED, True),
        (PEER, True),  # Ray has not noticed the death of the peer's node yet
        (raised("torch.distributed.DistBackendError: NCCL error in: ProcessGroup"), True),
        (raised("ray.exceptions.ActorDiedError: The actor died unexpectedly"), True),
        (raised("ray.exceptions.OutOfMemoryError: Task was killed due to the node"), True),
        (BUG, False),
        (raised("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"), False),
        (raised("ray.exceptions.RayTaskError(BadSample): ray::f()\nOSError: gone"), False),
    ],
)
def test_what_counts_as_a_loss(error: Exception, expected: bool) -> None:
    assert lost({0: error}) is expected
