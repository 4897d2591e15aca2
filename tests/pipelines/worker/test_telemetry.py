"""What resume states carry on: finite metrics alone, which JSON can hold."""

from typing import Any

import pytest
import ray.train

from pipelines.worker.messages import MESSAGE, Evaluated
from pipelines.worker.telemetry import Telemetry


def test_a_metric_that_is_not_finite_is_told_but_not_carried_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(ray.train, "report", told.append)
    telemetry: Any = object.__new__(Telemetry)
    telemetry._rank, telemetry._reported, telemetry._reported_before = 0, [], []
    message = Evaluated(step=5, metrics={"val/loss": float("nan"), "val/accuracy": 0.1})
    telemetry.report_metrics(message)
    assert told == [{MESSAGE: message}]
    assert telemetry.carry_over() == [{"step": 5, "val/accuracy": 0.1}]
