"""Which evaluation was the best so far, and the weights of that step.

The choice follows from the evaluations in their order and from nothing else. It goes into every
resume state together with the weights, so a group that resumes from any state, also with another
number of workers, makes the same choice as one that was never interrupted.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cluster.resume_state import Piece
from cluster.snapshot import Snapshot
from pipelines.lineage.best_evaluation import BestEvaluation
from pipelines.recipes.stage import Metric, Stage
from storage.pieces import Pieces

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


@dataclass(frozen=True, kw_only=True)
class Evaluations:
    """What is remembered of the evaluations so far."""

    made: int = 0
    """Number of them."""
    since_best: int = 0
    """Number of those after the best."""
    step: int = 0
    """Steps that were trained before the best evaluation; 0 before the first one."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """All metrics of the best."""

    def after(self, step: int, metrics: Mapping[str, float], metric: Metric) -> "Evaluations":
        """Return what is remembered after one more evaluation.

        The first of equals stays the best. An evaluation with a metric that is not finite is never
        the best.
        """
        made = self.made + 1
        if all(map(math.isfinite, metrics.values())) and _better(metric, metrics, self.metrics):
            return Evaluations(made=made, step=step, metrics=dict(metrics))
        return replace(self, made=made, since_best=self.since_best + 1)

    def ends(self, patience: int) -> bool:
        """Whether so many evaluations in a row were no better; never with a patience of 0."""
        return 0 < patience <= self.since_best


def _better(metric: Metric, new: Mapping[str, float], old: Mapping[str, float]) -> bool:
    if not old:
        return True
    return new[metric] < old[metric] if metric.endswith("loss") else new[metric] > old[metric]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The weights to commit, which the engine holds."""

    step: int
    """Steps that were trained for them."""
    metrics: Mapping[str, float]
    best: BestEvaluation | None = None


class Best:
    """What one rank keeps of the best evaluation. Every rank is given the same metrics."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._snapshot: Snapshot | None = None
        self.evaluations = Evaluations()

    def read(self, engine: "DeepSpeedEngine", state: Pieces) -> None:
        """Take over what a resume state holds, where the stage chooses."""
        if not self._stage.chooses:
            return
        self.evaluations = Evaluations(**state.manifest["best"])
        if self._keeps and self.evaluations.step:
            self._snapshot = Snapshot.read(engine, state)

    def add(self, engine: "DeepSpeedEngine", step: int, metrics: Mapping[str, float]) -> None:
        """Look at an evaluation of the weights that the engine holds; copy them if it is best.

        Nothing happens where the stage does not choose.
        """
        if not self._stage.chooses:
            return
        self.evaluations = self.evaluations.after(step, metrics, self._stage.metric)
        if self._keeps and self.evaluations.step == step:
            self._snapshot = Snapshot.of(engine)

    @property
    def ends(self) -> bool:
        """Whether the stage ends early."""
        return self.evaluations.ends(self._stage.patience)

    def pieces(self, engine: "DeepSpeedEngine") -> Iterator[Piece]:
        """What this rank adds to a resume state: its share of the best weights, if any."""
        if self._snapshot is not None:
            yield from self._snapshot.pieces(engine)

    def record(self) -> dict[str, Any] | None:
        """What a resume state's manifest says of it; None where nothing is chosen."""
        return asdict(self.evaluations) if self._stage.chooses else None

    def choose(self, engine: "DeepSpeedEngine", step: int, metrics: Mapping[str, float]) -> Chosen:
        """Put the weights to commit into the engine, which trained `step` steps; say which."""
        found = self.evaluations
        if self._snapshot is None:
            return Chosen(step=step, metrics=metrics)
        self._snapshot.put_back(engine)
        metric = self._stage.metric
        best = BestEvaluation(
            metric=metric,
            value=found.metrics[metric],
            evaluations=found.made,
            trained_steps=step,
        )
        return Chosen(step=found.step, metrics=found.metrics, best=best)

    @property
    def _keeps(self) -> bool:
        return self._stage.keep == "best"
