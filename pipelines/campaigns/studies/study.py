"""A study: points to measure, each the last stage of a chain, and the figure to draw from them.

The paper-size and CPU-size versions of a study are the same function of different recipes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.campaigns.studies.cells import Row
from pipelines.evaluation import fewshot
from pipelines.recipes.objectives import stage_cost
from pipelines.recipes.stage import Recipe, Stage

if TYPE_CHECKING:
    from pipelines.campaigns.studies.cells import Cells

Size = Literal["cpu", "paper"]
SIZES: tuple[Size, ...] = ("cpu", "paper")


@dataclass(frozen=True, kw_only=True)
class FewShotTask:
    """Closed-form few-shot regression on a study's frozen features."""

    dataset: str
    """Packed dataset under `place.data_root`, all of its classes."""
    shots: tuple[int, ...] = fewshot.SHOTS
    """Training images per class."""
    seeds: tuple[int, ...] = fewshot.SEEDS
    """Seeds of the draw of those images."""
    test_samples: int | None = None
    """Number of validation images to test on, drawn at random. Default: all."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement: the last stage of a chain."""

    stage: str
    """Name of the measured stage."""
    series: str
    """Line of the figure it belongs to."""
    x: float | str
    """Position on the x axis; words are placed in order of appearance."""
    seed: int = 0
    """Points that differ only in it are repetitions; a difference must exceed their spread."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis, as the paper labels it."""

    label: str
    log: bool = False
    """Whether it is logarithmic."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Stages, points among them, and the figure they make."""

    name: str
    title: str
    """The question, in a few words."""
    source: str
    """Figure, table or section of the paper."""
    recipe: Recipe
    points: tuple[Point, ...]
    few_shot: FewShotTask | None
    """Few-shot task measured on the weights of every point; None for none."""
    metric: str
    """What the y axis shows: a metric of the rows, `few_shot/5`, `val/accuracy`,
    `best/accuracy`."""
    x: Axis
    y: Axis
    expected: str
    """What the paper found, in a sentence."""
    conclude: "Callable[[Cells], list[str]]"
    """Computes the conclusions from the cells, as sentences."""

    def __post_init__(self) -> None:
        names = {stage.name for stage in self.recipe.stages}
        assert len(names) == len(self.recipe.stages), f"{self.name}: two stages of one name"
        assert {point.stage for point in self.points} <= names, f"{self.name}: points of no stage"

    def chain(self, stage: str) -> tuple[Stage, ...]:
        """Return a stage and its ancestors, oldest first."""
        last = self.recipe.stage(stage)
        return (*self.chain(last.parent), last) if last.parent else (last,)


Sizes = dict[Size, Callable[..., Study]]
"""The study at each size; `seeds` is the number of trainings per point."""


def row_of(study: Study, point: Point, attempt: str, metrics: Mapping[str, float]) -> Row:
    """Make the row of a point."""
    chain = study.chain(point.stage)
    return Row(
        series=point.series,
        x=point.x,
        seed=point.seed,
        stage=point.stage,
        attempt=attempt,
        parameters=_cost(chain[-1])[0],
        images=sum(stage.steps * stage.global_batch for stage in chain),
        exaflops=sum(_cost(stage)[1] for stage in chain),
        metrics=metrics,
    )


def _cost(stage: Stage) -> tuple[int, float]:
    """Return parameters, and exaFLOPs of training."""
    cost = stage_cost(stage)
    return cost.parameters, stage.steps * stage.global_batch * cost.training_flops / 1e18
