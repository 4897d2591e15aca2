"""Six workers of Ray Train have two streams; what dealt for a group that failed ends."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from cluster.settings import Place
from pipelines.recipes.digits import PRETRAIN
from pipelines.recipes.streams import train_spec, val_spec
from pipelines.worker.feed import TRAIN, OrderedDataConfig, placeholder
from storage.columns import order_of
from storage.order import rank_batch
from storage.pack import pack
from storage.pack.digits import Digits
from storage.selection import EVERYTHING

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]

RANKS = 6
STAGE = replace(
    PRETRAIN,
    data=replace(PRETRAIN.data, selection=EVERYTHING),  # the order's positions are the split's
    global_batch=60,
    steps=40,
    eval_every_steps=0,
)


def consume(config: dict[str, Any]) -> None:
    """A worker that looks at its batches; the first group fails in the middle."""
    rank = ray.train.get_context().get_world_rank()
    order = order_of(train_spec(STAGE, config["dataset"]))
    failed = Path(config["folder"]) / f"failed-{rank}"
    shard: Any = ray.train.get_dataset_shard(TRAIN)
    step = -1
    for step, found in enumerate(shard.iter_batches(batch_size=10, batch_format="numpy")):
        wanted = rank_batch(order, step, rank=rank, world_size=RANKS)[1]
        assert found["index"].tolist() == wanted.tolist(), step
        if step == 20 and not failed.exists():
            failed.touch()
            raise RuntimeError("as planned")
    assert step == STAGE.steps - 1
    (Path(config["folder"]) / f"done-{rank}").touch()


def test_six_workers_are_fed_after_a_failure_too(tmp_path: Path) -> None:
    dataset = pack(Digits(), str(tmp_path / "digits")).uri
    DataParallelTrainer(
        consume,
        train_loop_config={"folder": str(tmp_path), "dataset": dataset},
        scaling_config=ScalingConfig(num_workers=RANKS, resources_per_worker={"CPU": 0.25}),
        run_config=RunConfig(
            storage_path=str(tmp_path / "ray"),
            name="many",
            failure_config=FailureConfig(max_failures=RANKS),
        ),
        datasets={TRAIN: placeholder},
        dataset_config=OrderedDataConfig(
            train_spec(STAGE, dataset),
            val_spec(STAGE, dataset),
            Place(),
            steps=STAGE.steps,
            attempt_uri=str(tmp_path / "attempt"),
        ),
    ).fit()
    assert len(list(tmp_path.glob("failed-*"))) >= 1
    assert len(list(tmp_path.glob("done-*"))) == RANKS
    deadline = time.monotonic() + 30
    while len(dealing()) > 2 and time.monotonic() < deadline:
        time.sleep(1)
    assert len(dealing()) <= 2  # those of the last group: Ray's controller holds them


def dealing() -> list[int]:
    """Ids of the processes that deal blocks."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "ray::SplitCoordinator" in "".join(process.info["cmdline"] or [])
    ]
