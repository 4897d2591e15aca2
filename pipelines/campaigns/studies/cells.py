"""Measurements: a row per point, and cells, the means of rows that differ only in their seed."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.campaigns.studies.significance import holm, range_counts, student_p


@dataclass(frozen=True, kw_only=True)
class Row:
    """A point with its measurements."""

    series: str
    x: float | str
    seed: int
    stage: str
    attempt: str
    """Folder of the weights: fingerprint, and a number if it is not the first attempt."""
    parameters: int
    images: int
    """Images trained on, by the stage and its ancestors."""
    exaflops: float
    """Exaflop of training, of the stage and its ancestors."""
    metrics: Mapping[str, float]

    def flat(self) -> dict[str, Any]:
        """The row with its metrics as columns."""
        values = asdict(self)
        metrics = values.pop("metrics")
        return values | metrics


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Points of one series and x: their mean over seeds."""

    series: str
    x: float | str
    mean: float
    count: int


@dataclass(frozen=True)
class Cells:
    """All cells of a metric, in the order of the rows, and the spread of a single training."""

    cells: tuple[Cell, ...]
    spread: float | None
    """Standard deviation of one training, pooled over cells; None if nothing was repeated."""
    repeated: str
    """What was repeated: `training seeds`, `few-shot draws` or `nothing`."""
    degrees: int = 0
    """Degrees of freedom of the spread over training seeds; 0 means no claim is possible."""

    def of(self, series: str) -> list[Cell]:
        """The cells of a series."""
        return [cell for cell in self.cells if cell.series == series]

    def at(self, x: float | str) -> list[Cell]:
        """The cells of an x."""
        return [cell for cell in self.cells if cell.x == x]

    def differ(self, pairs: Sequence[tuple[Cell, Cell]]) -> list[bool]:
        """Return which of the planned comparisons of a sentence exceed the spread."""
        if self.spread is None or not self.degrees:
            return [False] * len(pairs)
        return holm([student_p(a.mean - b.mean, self._error(a, b), self.degrees) for a, b in pairs])

    def apart(self, first: Cell, second: Cell, *, of: int) -> bool:
        """Return whether two of `of` cells differ, if one was picked as the best or the worst."""
        if self.spread is None or not self.degrees:
            return False
        error = self._error(first, second)
        return range_counts(first.mean - second.mean, error, of=of, degrees=self.degrees)

    def _error(self, first: Cell, second: Cell) -> float:
        assert self.spread is not None
        return self.spread * math.sqrt(1 / first.count + 1 / second.count)


def cells_of(rows: Sequence[Row], metric: str) -> Cells:
    """Means of a metric over seeds.

    The spread is taken over training seeds if a cell has several, else over few-shot draws if any.
    The latter says nothing about training, so it supports no claim of a difference.
    """
    groups: dict[tuple[str, float | str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.series, row.x), []).append(row)
    cells = tuple(
        Cell(
            series=series,
            x=x,
            mean=statistics.fmean(row.metrics[metric] for row in group),
            count=len(group),
        )
        for (series, x), group in groups.items()
    )
    # A training that several series share counts once.
    repeated = {tuple(row.stage for row in group): group for group in groups.values()}
    several = [
        [row.metrics[metric] for row in group] for group in repeated.values() if len(group) > 1
    ]
    if several:
        degrees = sum(len(group) - 1 for group in several)
        return Cells(cells, _pooled(several), "training seeds", degrees)
    draws = [row.metrics[f"{metric}_spread"] for row in rows if f"{metric}_spread" in row.metrics]
    if draws:
        return Cells(cells, math.sqrt(statistics.fmean(d * d for d in draws)), "few-shot draws")
    return Cells(cells, None, "nothing")


def _pooled(groups: Iterable[Sequence[float]]) -> float:
    """Standard deviation within groups: the root of the pooled sample variance."""
    groups = list(groups)
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in groups)
    return math.sqrt(squares / sum(len(group) - 1 for group in groups))
