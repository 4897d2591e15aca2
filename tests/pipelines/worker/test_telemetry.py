"""What a rank remembers of its reports is bounded, however long it does not save."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
import torch

from cluster.settings import Place
from pipelines.recipes.digits import PRETRAIN
from pipelines.worker import telemetry as telemetries
from pipelines.worker.messages import MESSAGE, Evaluated
from pipelines.worker.telemetry import Telemetry


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Telemetry:
    """Of a stage that saves nothing."""
    monkeypatch.setattr(ray.train, "report", lambda metrics: None)
    job: Any = SimpleNamespace(stage=PRETRAIN, place=Place(save_every_steps=0, log_every_steps=5))
    survival: Any = SimpleNamespace()
    return Telemetry(job, survival, rank=0, world_size=1, device=torch.device("cpu"))


def report(telemetry: Telemetry, steps: range) -> None:
    for step in steps:
        telemetry.report_metrics(Evaluated(step=step, metrics={"val/loss": 1.0}))


def test_a_stage_that_never_saves_keeps_the_newest_records_alone(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(telemetry, range(25_000))
    kept = telemetry.carry_over()  # a notice of preemption saves all the same
    assert len(kept) == telemetries.CARRIED
    assert (kept[0]["step"], kept[-1]["step"]) == (15_000, 24_999)


def test_a_state_carries_what_was_reported_since_the_save_before_the_last(
    telemetry: Telemetry,
) -> None:
    carried = []
    for first in (0, 10, 20):
        report(telemetry, range(first, first + 10))
        carried.append([record["step"] for record in telemetry.carry_over()])
    assert carried == [[*range(10)], [*range(20)], [*range(10, 30)]]


def test_a_metric_that_is_not_finite_is_told_but_not_carried_over(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(ray.train, "report", told.append)
    message = Evaluated(step=5, metrics={"val/loss": float("nan"), "val/accuracy": 0.1})
    telemetry.report_metrics(message)
    assert told == [{MESSAGE: message}]
    assert telemetry.carry_over() == [{"step": 5, "val/accuracy": 0.1}]


@pytest.mark.parametrize(
    ("every", "seconds", "stride"), [(10, 0.5, 10), (10, 0.1, 10), (10, 0.04, 30), (1, 0.04, 25)]
)
def test_reports_of_fast_steps_are_a_second_apart(every: int, seconds: float, stride: int) -> None:
    assert telemetries.report_stride(every, seconds) == stride


@pytest.mark.parametrize(("seconds", "stride"), [(0.04, 125), (0.5, 10), (3.0, 1), (40.0, 1)])
def test_notices_are_looked_for_every_five_seconds(seconds: float, stride: int) -> None:
    assert telemetries.look_stride(seconds) == stride
