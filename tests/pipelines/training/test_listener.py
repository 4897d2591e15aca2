"""Each message of a worker becomes its lines on the terminal and its metrics in MLflow."""

import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines.cli.exits import Failed
from pipelines.cli.progress import Progress
from pipelines.lineage.best_evaluation import BestEvaluation
from pipelines.recipes.digits import PRETRAIN
from pipelines.training.listener import MOST_LINES, Listener
from pipelines.worker.messages import (
    Committed,
    Evaluated,
    Preempted,
    Quarantined,
    StageStopped,
    Started,
    StepsSkipped,
    StepsTrained,
    WorkersLost,
)
from storage.errors import BadInput
from storage.objects import open_store


@dataclass
class Kept:
    """A tracker that keeps what it is given."""

    steps: list[dict[str, float]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def log_steps(self, records: list[dict[str, float]]) -> None:
        self.steps += records

    def log_start(self, step: int) -> None:
        self.starts.append(step)

    def log_file(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def notices(self) -> list[str]:
        return []


@dataclass
class Heard:
    listener: Listener
    tracker: Kept
    stream: io.StringIO

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def heard(tmp_path: Path) -> Heard:
    stream, tracker = io.StringIO(), Kept()
    progress = Progress("pretrain", steps=10, global_batch=8, stream=stream)
    plan: Any = SimpleNamespace(
        attempt=SimpleNamespace(uri=str(tmp_path)),
        stage=replace(PRETRAIN, steps=100, keep="best", patience=3),
    )
    return Heard(Listener(cast(Any, tracker), progress, plan), tracker, stream)


def test_a_start_is_logged_with_the_metrics_it_carries(heard: Heard) -> None:
    record = {"step": 4, "train/loss": 0.5}
    heard.listener.handle(Started(step=4, plan="8 = 8 x 1 x 1", notes=(), records=[record]))
    assert (heard.tracker.starts, heard.tracker.steps) == ([4], [record])
    assert heard.lines == ["pretrain: 8 = 8 x 1 x 1"]  # no dangling separator


def test_steps_are_logged_with_their_pictures(heard: Heard, tmp_path: Path) -> None:
    open_store(str(tmp_path)).write("pictures/batch.png", b"png")
    record = {"step": 10, "train/images_per_second": 80.0, "train/epoch": 1.0, "train/loss": 0.5}
    heard.listener.handle(StepsTrained(records=[record], pictures=("pictures/batch.png",)))
    assert heard.tracker.steps == [record]
    assert heard.tracker.files == {"pictures/batch.png": b"png"}
    assert "step 10/10" in heard.lines[0]


def test_an_evaluation_is_said_and_logged(heard: Heard) -> None:
    metrics = {"val/accuracy": 0.75, "val/loss": 1.25}
    heard.listener.handle(Evaluated(step=7, metrics=metrics))
    assert heard.tracker.steps == [{"step": 7, **metrics}]
    assert "0.7500" in heard.lines[0]
    assert "1.2500" in heard.lines[0]


def test_of_many_damaged_samples_a_few_are_shown_and_all_are_counted(
    heard: Heard, tmp_path: Path
) -> None:
    open_store(str(tmp_path)).write("quarantine.json", b"[]")
    lines = tuple(f"sample {number} is torn" for number in range(MOST_LINES + 3))
    heard.listener.handle(Quarantined(step=3, metrics={"train/quarantined": 8.0}, lines=lines))
    assert len(heard.lines) == MOST_LINES + 1
    assert "3 more" in heard.lines[-1]
    assert heard.tracker.files == {"quarantine.json": b"[]"}
    assert heard.tracker.steps == [{"step": 3, "train/quarantined": 8.0}]


@pytest.mark.parametrize(("mistake", "kind"), [(True, BadInput), (False, Failed)])
def test_the_first_reason_to_stop_is_kept(heard: Heard, mistake: bool, kind: type) -> None:
    heard.listener.handle(StageStopped(reason="loss is NaN", mistake=mistake))
    heard.listener.handle(StageStopped(reason="later", mistake=not mistake))
    assert type(heard.listener.stopped) is kind
    assert "loss is NaN" in str(heard.listener.stopped)


def test_losses_notices_and_skipped_steps_are_said(heard: Heard) -> None:
    heard.listener.handle(WorkersLost(reasons={1: "OSError: gone"}))
    heard.listener.handle(Preempted(ranks=(0, 2)))
    heard.listener.handle(StepsSkipped(steps=2, reason="the loss of step 5 is NaN"))
    first, second, third = heard.lines
    assert "worker 1" in first
    assert "OSError: gone" in first
    assert "0, 2" in second
    assert "step 5" in third


def test_an_unknown_message_is_refused(heard: Heard) -> None:
    with pytest.raises(TypeError, match="no such message"):
        heard.listener.handle(cast(Any, {"kind": "steps"}))


def test_a_commit_says_which_step_was_kept_and_why_it_ended_early(heard: Heard) -> None:
    metrics = {"val/accuracy": 0.9}
    for trained, said in (
        (70, ["after step 70 of 100: 3 ", "step 40: the best val/accuracy, 0.9000, of 7 "]),
        (100, ["step 40: the best val/accuracy, 0.9000, of 7 "]),
        (40, ["after step 40 of 100: 3 "]),
    ):
        best = BestEvaluation(
            metric="val/accuracy", value=0.9, evaluations=7, trained_steps=trained
        )
        before = len(heard.lines)
        heard.listener.handle(Committed(step=40, metrics=metrics, best=best))
        lines = heard.lines[before:]
        assert len(lines) == len(said)
        assert all(part in line for part, line in zip(said, lines, strict=True))
    assert heard.tracker.steps == [{"step": 40, **metrics}] * 3


def test_a_commit_of_the_last_step_says_nothing_more(heard: Heard) -> None:
    heard.listener.handle(Committed(step=100, metrics={"val/accuracy": 0.9}))
    assert heard.lines == []
