"""Restarts are for losses: a group that fails by itself, at the same step again, is not restarted.

`place.max_failures` counts every failure; on a cluster of spot nodes it is unlimited, and a fault
of the code or of an image would be met forever, on paid GPUs.
"""

import re
from collections.abc import Mapping
from typing import Any

import ray.exceptions
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)
from ray.train import Checkpoint, UserCallback

from pipelines.cli.ray_errors import root_cause
from pipelines.worker.messages import MESSAGE, Committed, Evaluated, Message, Started, StepsTrained

MOST_IN_VAIN = 2
"""Restarts in a row that reach no newer step and lose no worker, after which there is no other."""
_GONE = (RayActorError, WorkerCrashedError, NodeDiedError, LocalRayletDiedError, ObjectLostError)
_LOST = {"WorkerHealthCheckFailedError", "WorkerHealthCheckTimeoutError"} | {
    name
    for name, kind in vars(ray.exceptions).items()
    if isinstance(kind, type) and issubclass(kind, (*_GONE, OutOfMemoryError))  # a host's
}
"""What Ray raises where a process, a node or an object is gone."""
_PEER = re.compile(r"gloo|nccl|\bDist\w+Error\b|connection (reset|closed) by peer", re.IGNORECASE)
"""What torch.distributed says where another rank is gone."""


class NoProgress(Exception):
    """Another restart would fail like those before it."""


class Restarts(UserCallback):
    """Counts on the controller, and ends the training by raising NoProgress there."""

    def __init__(self) -> None:
        self._reached = self._best = self._in_vain = 0
        self._failed = False

    def after_report(
        self, run_context: object, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Called after every rank has reported."""
        self._reached = max(self._reached, step_of(metrics[0][MESSAGE]))

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Called when workers were lost or raised.

        Raises:
            NoProgress: it was in vain too often.
        """
        reached, self._reached = self._reached, 0
        again = self._failed and reached <= self._best
        self._failed, self._best = True, max(self._best, reached)
        self._in_vain = self._in_vain + 1 if again and not lost(worker_exceptions) else 0
        if self._in_vain >= MOST_IN_VAIN:
            name, message = root_cause(next(iter(worker_exceptions.values())))
            raise NoProgress(
                f"{MOST_IN_VAIN} restarts in a row came no further than step {self._best} and lost"
                f" no worker: {name}: {message}"
            )


def step_of(message: Message) -> int:
    """The step that a message shows to be reached; 0 if it shows none."""
    match message:
        case StepsTrained():
            return int(message.records[-1]["step"])
        case Started() | Evaluated() | Committed():
            return message.step
        case _:
            return 0


def lost(worker_exceptions: Mapping[int, Exception]) -> bool:
    """Whether a process or a node is gone.

    Ray may notice the death of a node later than the peers, whose connections break: where that is
    all that any rank raised, somebody was lost.
    """
    each = worker_exceptions.values()
    gone = any(
        type(one).__name__ in _LOST or any(f"ray.exceptions.{name}:" in str(one) for name in _LOST)
        for one in each
    )
    return gone or all(_PEER.search(": ".join(root_cause(one))) for one in each)
