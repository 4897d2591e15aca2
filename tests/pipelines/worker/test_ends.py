"""How a worker's training ends: committed already, metrics not finite, out of memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cluster import resume_state
from cluster.errors import BadPlace
from cluster.settings import Place, Zero
from pipelines.cli.ray_errors import is_mistake
from pipelines.lineage.manifest import Manifest, read_manifest
from pipelines.recipes import find_recipe
from pipelines.recipes.batches import batch_of
from pipelines.recipes.objectives import stage_objective
from pipelines.worker import loop, memory_guard
from pipelines.worker.best import Best
from pipelines.worker.job import Stopped
from pipelines.worker.loop import Worker
from pipelines.worker.memory_guard import MemoryGuard
from pipelines.worker.messages import Committed, Message
from pipelines.worker.micro_batch import MicroBatch, read_micro_batch
from pipelines.worker.out_of_memory import explain, held_by_others
from storage import weights
from tests.pipelines.support.batches import columns
from vit import build_model

STAGE = replace(find_recipe("digits").stages[0], global_batch=16)
STEPS = STAGE.steps
METRICS = {"val/accuracy": 0.5, "val/loss": 0.25}


@dataclass
class Reports:
    """Telemetry that keeps what it is given."""

    messages: list[Message] = field(default_factory=list)
    unreported: list[object] = field(default_factory=list)

    def report(self, message: Message) -> None:
        self.messages.append(message)

    report_metrics = report

    def check(self, quarantine: object, step: int) -> None:
        assert quarantine is None

    def reset_clock(self) -> None: ...


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    meeting = f"file://{tmp_path}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Rank 0 of a group of one, whose engine is a plain model."""
    one: Any = object.__new__(Worker)
    manifest = Manifest(stage={"name": "pretrain"}, fingerprint="f")
    job: Any = SimpleNamespace(
        stage=STAGE, place=Place(), attempt_uri=str(tmp_path / "a"), manifest=manifest
    )
    one.job = job
    one.rank, one.world_size, one.device, one.dtype = 0, 1, torch.device("cpu"), torch.float32
    one.place = one.job.place
    one.plan, one.first_step = batch_of(STAGE, one.job.place, 1), 0
    one.memory = MemoryGuard(job, one.place, one.plan, rank=0, device=one.device)
    one.objective = stage_objective(STAGE)
    one.survival = SimpleNamespace(beat=lambda *said: None, settle=lambda: "")
    one.telemetry, one.engine, one.best = Reports(), None, Best(STAGE)
    one.val_quarantine = None
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([{"params": [parameter], "lr_scale": 1.0}])
    monkeypatch.setattr(resume_state, "inner_optimizer", lambda engine: optimizer)
    monkeypatch.setattr(resume_state, "gather_weights", lambda *of: {"w": torch.ones(3)})
    return one


@pytest.mark.usefixtures("alone")
def test_a_group_after_the_commit_finds_it_and_trains_nothing(worker: Worker) -> None:
    assert not worker.committed()
    worker.commit(STEPS, METRICS)
    assert worker.committed()
    manifest = read_manifest(worker.job.attempt_uri)
    assert manifest is not None
    assert manifest.arithmetic == {
        "device": "cpu",
        "workers": 1,
        "micro_batch": 16,
        "zero_level": 1,
        "offload_optimizer": False,
        "compile": False,
        "recompute_activations": False,
        "deterministic": False,
    }
    own, found = worker.telemetry.messages  # type: ignore[attr-defined]
    assert own == Committed(step=STEPS, metrics=METRICS)
    assert found == Committed(step=STEPS, metrics=METRICS, earlier=True)


@pytest.mark.usefixtures("alone")
def test_a_group_that_comes_second_takes_the_weights_of_the_first(worker: Worker) -> None:
    manifest = replace(worker.job.manifest, step=STEPS, metrics={"val/loss": 0.125})
    weights.commit(worker.job.attempt_uri, {"w": torch.zeros(3)}, manifest.to_json())
    worker.commit(STEPS, METRICS)
    (message,) = worker.telemetry.messages  # type: ignore[attr-defined]
    assert message.earlier
    found, _ = weights.read_weights(worker.job.attempt_uri)
    assert found["w"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_last_evaluation_that_is_not_finite_stops_the_stage(worker: Worker, value: float) -> None:
    with pytest.raises(
        Stopped, match=rf"nothing was committed: .*step, {STEPS}, val/loss is {value}"
    ):
        worker.commit(STEPS, {**METRICS, "val/loss": value})
    assert read_manifest(worker.job.attempt_uri) is None


def no_memory(*arguments: object, **named: object) -> dict[str, float]:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(total_memory=8 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)


@pytest.mark.usefixtures("small_gpu")
def test_memory_that_ends_in_the_first_steps_is_a_mistake(worker: Worker) -> None:
    batch = columns(STAGE, 16, worker.device)
    worker.engine, worker.first_step = no_memory, 1  # type: ignore[assignment]
    with pytest.raises(
        BadPlace, match=r"--place\.max-micro-batch 8 or --place\.recompute"
    ) as raised:
        worker.step(batch, 2)
    assert is_mistake(RuntimeError(f"Traceback ...\ncluster.errors.BadPlace: {raised.value}"))
    assert read_micro_batch(worker.job.attempt_uri) == MicroBatch(most=8, too_large=(16,))
    with pytest.raises(torch.OutOfMemoryError):  # it did fit: a restart may help
        worker.step(batch, 3)


@pytest.mark.usefixtures("small_gpu")
def test_memory_that_ends_in_a_first_evaluation_halves_evaluations_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "evaluate", no_memory)
    with pytest.raises(BadPlace, match=r"^an evaluation of 16 images at once needs more than"):
        worker.evaluate(10)
    found = read_micro_batch(worker.job.attempt_uri)
    assert found == MicroBatch(most=16, evaluated=8)  # training did fit
    monkeypatch.setattr(loop, "evaluate", lambda *of, **named: METRICS)
    worker.evaluate(20)
    monkeypatch.setattr(loop, "evaluate", no_memory)
    with pytest.raises(torch.OutOfMemoryError):  # it did fit: a restart may help
        worker.evaluate(30)
    assert read_micro_batch(worker.job.attempt_uri) == found


@pytest.mark.usefixtures("small_gpu")
def test_an_image_that_cannot_be_evaluated_is_a_mistake(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.memory.at_once = 1
    monkeypatch.setattr(loop, "evaluate", no_memory)
    with pytest.raises(BadPlace, match=r"^an evaluation of 1 images at once .* more memory$"):
        worker.evaluate(10)
    assert read_micro_batch(worker.job.attempt_uri) is None


@pytest.mark.usefixtures("small_gpu")
def test_a_model_without_room_is_a_mistake_that_no_micro_batch_mends(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "start", no_memory)
    with pytest.raises(BadPlace, match=r"^the model needs more than .* give it a GPU with more"):
        worker.start()
    assert read_micro_batch(worker.job.attempt_uri) is None


def test_a_model_that_others_leave_no_room_is_no_mistake(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the worker before this one, which has not ended yet."""
    monkeypatch.setattr(loop, "start", no_memory)
    monkeypatch.setattr(memory_guard, "held_by_others", lambda device: 30 << 30)
    with pytest.raises(torch.OutOfMemoryError):
        worker.start()


def test_what_others_hold_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 64 << 30)
    assert held_by_others(torch.device("cuda", 0)) == 6 << 30
    assert held_by_others(torch.device("cpu")) == 0


def test_what_fits_no_gpu_is_said_with_the_plan_and_what_needs_less() -> None:
    place = Place(max_micro_batch=64, zero=Zero(level=1))
    stage = replace(STAGE, global_batch=256)

    def said(place: Place, workers: int) -> str:
        plan = batch_of(stage, place, workers)
        line = explain(
            stage,
            place,
            plan,
            what="micro-batch 64",
            in_batches=True,
            device="NVIDIA H100 80GB HBM3",
            memory_bytes=85_029_158_912,
        )
        assert "\n" not in line
        return line

    line = said(place, 2)
    assert line.startswith(
        "micro-batch 64 needs more than the 79.2 GiB of this NVIDIA H100 80GB HBM3:"
        " global batch 256 = 64 micro x 2 workers x 2 accumulation, zero.level 1, "
    )
    parameters = sum(p.numel() for p in build_model(stage.model, device="meta").parameters())
    assert f"{parameters / 1e6:.0f} million parameters; the plan expects " in line
    assert line.endswith(
        "give --place.max-micro-batch 32 or --place.recompute-activations or --place.zero.level 2"
    )
    tight = replace(place, max_micro_batch=1, recompute_activations=True)
    assert said(tight, 1).endswith("give it a GPU with more memory")
