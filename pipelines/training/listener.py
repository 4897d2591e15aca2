"""What the driver does with a message of the workers: a line for people, metrics for MLflow."""

from typing import Any

from pipelines.cli.exits import Failed
from pipelines.cli.progress import Progress
from pipelines.tracking.tracker import Tracker
from pipelines.training.outcomes import accuracy_of
from pipelines.training.prepare import Plan
from pipelines.worker.quarantine import FILE as QUARANTINE
from pipelines.worker.watchdog import stall_lines
from storage.errors import BadInput
from storage.objects import open_store

NAMED = 5  # damaged samples that a terminal shows at once


def handle_message(
    message: dict[str, Any],
    tracker: Tracker,
    progress: Progress,
    plan: Plan,
    stopped: list[Exception],
) -> None:
    """One message of the workers, on the driver."""
    kind = message.get("kind")
    if kind == "start":
        progress.note("; ".join(filter(None, (message["plan"], ", ".join(message["notes"])))))
        tracker.log_start(message["step"])
        tracker.log_steps(message["records"])  # trained, though perhaps nobody heard of it
    elif kind == "steps":
        progress.show(message["records"][-1])
        tracker.log_steps(message["records"])
        for name in message["pictures"]:
            tracker.log_file(name, open_store(plan.attempt.uri).read(name))
    elif kind == "metrics":
        metrics = message["metrics"]
        progress.note(
            f"step {message['step']}: val accuracy {accuracy_of(metrics)},"
            f" val loss {metrics['val/loss']:.4f}"
        )
        tracker.log_steps([{"step": message["step"], **metrics}])
    elif kind == "quarantined":
        for line in message["lines"][:NAMED]:
            progress.note(f"warning: {line}; another sample takes its place")
        if len(message["lines"]) > NAMED:
            progress.note(f"warning: {len(message['lines']) - NAMED} more, see {QUARANTINE}")
        tracker.log_steps([{"step": message["step"], **message["metrics"]}])
        tracker.log_file(QUARANTINE, open_store(plan.attempt.uri).read(QUARANTINE))
    elif kind == "stopped":
        kind_of_error = BadInput if message["mistake"] else Failed
        stopped.append(kind_of_error(f"stage {plan.stage.name}: {message['reason']}"))
    elif kind == "preempted":
        ranks = ", ".join(map(str, message["ranks"])) or "none of ours"
        progress.note(f"a node is about to be taken away (ranks: {ranks}); saving before it goes")
    elif kind == "skipped":
        progress.note(f"warning: {message['reason']}; {message['steps']} steps went without")
    elif kind == "lost":
        for rank, reason in message["workers"].items():
            progress.note(f"worker {rank} failed: {reason}")
        for line in stall_lines(plan.attempt.uri):
            progress.note(line)
    for line in tracker.notices():
        progress.note(line)
