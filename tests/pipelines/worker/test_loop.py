"""When the loop reports, looks for notices and saves: real arithmetic, a worker that counts."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import torch

from cluster.settings import Place, Workers
from pipelines.recipes.digits import PRETRAIN
from pipelines.worker import loop, telemetry
from pipelines.worker.guards import TrainedStep
from pipelines.worker.telemetry import Telemetry


@dataclass
class Counting:
    """A worker that writes down in which steps it does what."""

    telemetry: Any
    noticed: int = 0
    """Step in which a node is given notice; it is told once."""
    done: list[tuple[str, int]] = field(default_factory=list)
    step_now: int = 0

    def start(self) -> int:
        return 0

    def fetch(self, step: int) -> None: ...

    def step(self, batch: None, step: int) -> None:
        self.step_now = step + 1

    def report(self, step: int) -> None:
        self.done.append(("report", step))

    def save(self, step: int) -> None:
        self.done.append(("save", step))

    def evaluate(self, step: int, *, last: bool = False) -> dict[str, float]:
        return {}

    def commit(self, step: int, metrics: dict[str, float]) -> None:
        self.done.append(("commit", step))

    def preempted(self) -> bool:
        found = 0 < self.noticed <= self.step_now
        self.noticed = 0 if found else self.noticed
        return found


def trained(place: Place, *, seconds: float, noticed: int) -> list[tuple[str, int]]:
    """What a stage of 100 steps of so many seconds does."""
    stride = telemetry.report_stride(place.log_every_steps, seconds)
    look = telemetry.look_stride(seconds)
    own = SimpleNamespace(due=lambda n: n % stride == 0, looks=lambda n: n % look == 0)
    worker: Any = Counting(own, noticed=noticed)
    loop._train(worker, replace(PRETRAIN, steps=100, eval_every_steps=0), place)
    return worker.done


def test_a_notice_is_saved_for_between_two_saves_and_reports() -> None:
    """Steps of two seconds: reports are 20 s apart, saves 100 s, looks four."""
    done = trained(Place(log_every_steps=10, save_every_steps=50), seconds=2.0, noticed=23)
    assert [step for what, step in done if what == "save"] == [24, 50]
    assert [step for what, step in done if what == "report"] == [*range(10, 101, 10)]
    assert done[-1] == ("commit", 100)


def test_fast_steps_are_not_held_up_by_looking() -> None:
    done = trained(Place(log_every_steps=10, save_every_steps=50), seconds=0.01, noticed=3)
    assert [step for what, step in done if what == "save"] == [50]  # looked at the last report
    assert [step for what, step in done if what == "report"] == [100]


def test_the_strides_follow_from_the_steps_that_were_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray.train, "report", lambda metrics: None)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    monkeypatch.setattr(telemetry, "gradient_norm", lambda engine: None)
    job: Any = SimpleNamespace(stage=PRETRAIN, place=Place(log_every_steps=10), steps_per_epoch=9.0)
    survival: Any = SimpleNamespace(beat=lambda step, doing: None, stalled=lambda: 0.0)
    quarantine: Any = SimpleNamespace(agree=lambda device: [])
    engine: Any = None
    own = Telemetry(job, survival, rank=0, world_size=1, device=torch.device("cpu"))
    assert own.looks(7)  # before the first report each step looks
    for seconds, reports, looks in ((20.1, 10, 2), (0.201, 50, 248)):  # ten steps took so long
        own.unreported = [TrainedStep(n, 0.1, torch.ones(()), torch.zeros(1)) for n in range(10)]
        own.reset_clock()
        own._began -= seconds
        own.report_steps(10, engine, quarantine)
        steps = range(1, 501)
        assert next(n for n in steps if own.due(n)) == reports
        assert next(n for n in steps if own.looks(n)) == pytest.approx(looks, abs=2)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_worker_computes_in_the_stages_arithmetic(
    deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Given(Exception): ...

    def set_arithmetic(precision: str, *, deterministic: bool) -> None:
        raise Given(precision, deterministic)

    ranks = SimpleNamespace(
        get_world_rank=lambda: 0, get_world_size=lambda: 1, get_local_rank=lambda: 0
    )
    monkeypatch.setattr(ray.train, "get_context", lambda: ranks)
    monkeypatch.setattr(loop, "prepare_worker", lambda **given: torch.device("cpu"))
    monkeypatch.setattr(loop, "set_arithmetic", set_arithmetic)
    job: Any = SimpleNamespace(
        stage=replace(PRETRAIN, precision="tf32"),
        place=Place(deterministic=deterministic, workers=Workers(gpus=0)),
    )
    with pytest.raises(Given) as raised:
        loop.Worker(job)
    assert raised.value.args == ("tf32", deterministic)
