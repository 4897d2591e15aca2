"""What the driver does with a message of the workers: a line on the terminal, metrics to MLflow."""

from collections.abc import Iterator

from pipelines.cli.exits import Failed
from pipelines.cli.progress import Progress
from pipelines.recipes.stage import Stage
from pipelines.tracking.tracker import Tracker
from pipelines.training.outcomes import accuracy_of
from pipelines.training.prepare import Plan
from pipelines.worker.messages import (
    Committed,
    Evaluated,
    Message,
    Preempted,
    Quarantined,
    StageStopped,
    Started,
    StepsSkipped,
    StepsTrained,
    WorkersLost,
)
from pipelines.worker.quarantine import FILE as QUARANTINE
from pipelines.worker.watchdog import stall_lines
from storage.errors import BadInput
from storage.objects import open_store

MOST_LINES = 5  # damaged samples that a terminal shows at once


class Listener:
    """Handles the messages of one stage attempt."""

    def __init__(self, tracker: Tracker, progress: Progress, plan: Plan) -> None:
        self._tracker, self._progress, self._plan = tracker, progress, plan
        self.stopped: Exception | None = None
        """Why the workers gave up, if they did."""

    def handle(self, message: Message) -> None:
        """Handle one message. Raises TypeError for a message of an unknown class."""
        tracker, note = self._tracker, self._progress.note
        match message:
            case Started():
                note("; ".join(filter(None, (message.plan, ", ".join(message.notes)))))
                tracker.log_start(message.step)
                tracker.log_steps(list(message.records))
            case StepsTrained():
                self._progress.show(message.records[-1])
                tracker.log_steps(list(message.records))
                self._log_pictures(message.pictures)
            case Evaluated():
                accuracy, loss = accuracy_of(message.metrics), message.metrics["val/loss"]
                note(f"step {message.step}: val accuracy {accuracy}, val loss {loss:.4f}")
                tracker.log_steps([{"step": message.step, **message.metrics}])
                self._log_pictures(message.pictures)
            case Quarantined():
                self._quarantined(message)
            case Committed():
                if message.earlier:
                    note(
                        f"step {message.step}: the weights are committed; nothing is trained again"
                    )
                for line in _choice(message, self._plan.stage):
                    note(line)
                tracker.log_steps([{"step": message.step, **message.metrics}])
            case StageStopped():
                kind = BadInput if message.mistake else Failed
                self.stopped = self.stopped or kind(
                    f"stage {self._plan.stage.name}: {message.reason}"
                )
            case Preempted():
                ranks = ", ".join(map(str, message.ranks)) or "none of this stage"
                note(f"a node is about to be taken away (ranks: {ranks}); saving before it goes")
            case StepsSkipped():
                note(f"warning: {message.reason}; {message.steps} steps skipped")
            case WorkersLost():
                for rank, reason in message.reasons.items():
                    note(f"worker {rank} failed: {reason}")
                for line in stall_lines(self._plan.attempt.uri):
                    note(line)
            case _:
                raise TypeError(f"no such message from a worker: {message!r}")
        for line in tracker.notices():
            note(line)

    def _log_pictures(self, names: tuple[str, ...]) -> None:
        store = open_store(self._plan.attempt.uri)
        for name in names:
            self._tracker.log_file(name, store.read(name))

    def _quarantined(self, message: Quarantined) -> None:
        for line in message.lines[:MOST_LINES]:
            self._progress.note(f"warning: {line}; another sample takes its place")
        if len(message.lines) > MOST_LINES:
            more = len(message.lines) - MOST_LINES
            self._progress.note(f"warning: {more} more, see {QUARANTINE}")
        self._tracker.log_steps([{"step": message.step, **message.metrics}])
        self._tracker.log_file(QUARANTINE, open_store(self._plan.attempt.uri).read(QUARANTINE))


def _choice(message: Committed, stage: Stage) -> Iterator[str]:
    """Say why a stage ended early, and which weights were kept, where these are not the last."""
    best = message.best
    trained = best.trained_steps if best else message.step
    if trained < stage.steps:
        yield (
            f"ended after step {trained} of {stage.steps}: {stage.patience} evaluations in a row"
            f" without a better {stage.metric}"
        )
    if best is not None and message.step < trained:
        yield (
            f"kept the weights of step {message.step}: the best {best.metric}, {best.value:.4f},"
            f" of {best.evaluations} evaluations"
        )
