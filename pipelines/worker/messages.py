"""What workers report to the driver: a frozen dataclass for each kind of message.

Rank 0's message passes Ray Train's controller (`training.relay`) into the driver, which matches on
the class (`training.listener`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.lineage.best_evaluation import BestEvaluation

MESSAGE = "message"
"""Key of the message in what is passed to `ray.train.report`, which takes a dict."""
Record = dict[str, float]
"""Metrics of one step, by name, with the step itself under `step`."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A worker group begins, or begins again after a restart."""

    step: int
    """Steps done before it."""
    plan: str
    """The batch arithmetic: global batch = micro-batch x workers x accumulation."""
    notes: tuple[str, ...]
    """Where the weights are from, and what was changed on the way."""
    records: Sequence[Record] = ()
    """Metrics of earlier steps that may not have reached the driver before the restart."""


@dataclass(frozen=True, kw_only=True)
class StepsTrained:
    """The metrics of every step since the last such message."""

    records: Sequence[Record]
    pictures: tuple[str, ...] = ()
    """Names of pictures that now lie in the attempt's folder."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Metrics of an evaluation."""

    step: int
    metrics: Mapping[str, float]
    pictures: tuple[str, ...] = ()
    """Names of pictures that now lie in the attempt's folder."""


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """Damaged samples that were met for the first time."""

    step: int
    metrics: Mapping[str, float]
    lines: tuple[str, ...]
    """A line for each sample: its name and the reason."""


@dataclass(frozen=True, kw_only=True)
class StepsSkipped:
    """Steps that trained on nothing, because their loss was NaN or infinite."""

    steps: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Committed:
    """The weights are committed: nothing is left to train, whatever happens from now on."""

    step: int
    """Steps that are in the weights."""
    metrics: Mapping[str, float]
    """The evaluation of these weights, as the manifest has it."""
    best: BestEvaluation | None = None
    """How the weights were chosen, where they are not simply the last."""
    earlier: bool = False
    """Whether another group of this attempt had committed them."""


@dataclass(frozen=True, kw_only=True)
class StageStopped:
    """The group ends without weights, for a reason that a restart would meet again."""

    reason: str
    mistake: bool
    """Whether the user can mend it (exit code 2), rather than a failure of the world (1)."""


@dataclass(frozen=True, kw_only=True)
class Preempted:
    """Nodes are about to be taken away."""

    ranks: tuple[int, ...]
    """The ranks on these nodes."""


@dataclass(frozen=True, kw_only=True)
class WorkersLost:
    """Workers raised or disappeared; Ray Train starts the group again."""

    reasons: Mapping[int, str]
    """Rank -> what it raised."""


Message = (
    Started
    | StepsTrained
    | Evaluated
    | Quarantined
    | StepsSkipped
    | Committed
    | StageStopped
    | Preempted
    | WorkersLost
)
