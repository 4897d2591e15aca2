"""What was measured: a row a point, and cells, the means of rows that differ by seed alone."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.campaigns.studies.significance import holm, range_counts, student_p


@dataclass(frozen=True, kw_only=True)
class Row:
    """One point with what was measured there."""

    series: str
    x: float | str
    seed: int
    stage: str
    attempt: str
    """Folder of the weights: fingerprint, and the attempt's number where it is not the first."""
    parameters: int
    images: int
    """Trained on, over the chain."""
    exaflops: float
    """Of training, over the chain."""
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
    """All cells of a metric, in the order of the rows, and the spread of a single run."""

    cells: tuple[Cell, ...]
    spread: float | None
    """Standard deviation of one run, pooled over cells; None where nothing was repeated."""
    repeated: str
    """What was repeated: `training seeds`, `few-shot draws` or `nothing`."""
    degrees: int = 0
    """Degrees of freedom of the spread over training seeds; 0: no difference can be claimed."""

    def of(self, series: str) -> list[Cell]:
        """The cells of a series."""
        return [cell for cell in self.cells if cell.series == series]

    def at(self, x: float | str) -> list[Cell]:
        """The cells of an x."""
        return [cell for cell in self.cells if cell.x == x]

    def differ(self, pairs: Sequence[tuple[Cell, Cell]]) -> list[bool]:
        """Which of the planned comparisons of a sentence are beyond the spread."""
        if self.spread is None or not self.degrees:
            return [False] * len(pairs)
        return holm([student_p(a.mean - b.mean, self._error(a, b), self.degrees) for a, b in pairs])

    def apart(self, first: Cell, second: Cell, *, of: int) -> bool:
        """Whether two of `of` cells differ, one of which was picked as the best or the worst."""
        if self.spread is None or not self.degrees:
            return False
        error = self._error(first, second)
        return range_counts(first.mean - second.mean, error, of=of, degrees=self.degrees)

    def _error(self, first: Cell, second: Cell) -> float:
        assert self.spread is not None
        return self.spread * math.sqrt(1 / first.count + 1 / second.count)


def cells_of(rows: Sequence[Row], metric: str) -> Cells:
    """Means of a metric over seeds.

    The spread is that over training seeds where a cell has several. That over few-shot draws is
    shown where nothing else is there; it knows nothing of training, so no difference follows of it.
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
    several = [
        [row.metrics[metric] for row in group] for group in groups.values() if len(group) > 1
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
