"""Conclusions that the measurements support, as computed sentences; the paper may disagree.

A difference counts if noise alone would produce such a claim in a sentence in at most 5 % of the
studies (`significance`). Smaller ones are reported as no difference.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

from pipelines.campaigns.studies.cells import Cell, Cells
from pipelines.campaigns.studies.significance import LEVEL

Sentences = list[str]


def against_first(cells: Cells, *, first: str, others: str) -> Sentences:
    """Compare each later x of a single series with the first, then the later ones mutually."""
    base, *rest = cells.cells
    differs = cells.differ([(cell, base) for cell in rest])
    better = [c for c, counts in zip(rest, differs, strict=True) if counts and c.mean > base.mean]
    worse = [c for c, counts in zip(rest, differs, strict=True) if counts and c.mean < base.mean]
    alike = [c for c, counts in zip(rest, differs, strict=True) if not counts]
    sentences = []
    for group, words in (
        (better, "better than"),
        (worse, "worse than"),
        (alike, "no different beyond the spread from"),
    ):
        if group:
            named = ", ".join(f"{_x(c)} ({_signed(c, base)})" for c in group)
            sentences.append(f"{words} {first} ({_percent(base)}): {named}")
    best, least = max(rest, key=_mean), min(rest, key=_mean)
    if len(rest) > 1:
        outcome = (
            f"{_x(best)} is ahead of {_x(least)} by {_points(best.mean - least.mean)}"
            if cells.apart(best, least, of=len(rest))
            else "no difference beyond the spread"
        )
        sentences.append(f"among {others}: {outcome}")
    return sentences


def trend(cells: Cells) -> Sentences:
    """Report whether a metric rises from the smallest x to the largest, with one cell per x."""
    ordered = sorted(cells.cells, key=lambda cell: float(cell.x))
    first, last = ordered[0], ordered[-1]
    change = f"{first.series} {_percent(first)} -> {last.series} {_percent(last)}"
    if not cells.differ([(first, last)])[0]:
        return [f"from the least to the most compute: no difference beyond the spread ({change})"]
    rises = last.mean > first.mean
    direction = "rises" if rises else "falls"
    steps = list(itertools.pairwise(ordered))
    against = [
        after
        for (before, after), counts in zip(steps, cells.differ(steps), strict=True)
        if counts and (after.mean > before.mean) != rises
    ]
    shape = "" if not against else f", though not at {', '.join(c.series for c in against)}"
    return [f"accuracy {direction} from the least to the most compute{shape} ({change})"]


def by_data(cells: Cells) -> Sentences:
    """Report which series leads at each x, and what each gains from smallest to largest x."""
    sentences = []
    for x in _xs(cells):
        best, *others = sorted(cells.at(x), key=_mean, reverse=True)
        level = [cell.series for cell in others if not cells.apart(best, cell, of=len(others) + 1)]
        if others and len(level) == len(others):
            sentences.append(
                f"at {x:,.0f} samples no difference beyond the spread ({best.series} highest,"
                f" {_percent(best)})"
            )
            continue
        with_it = f" with {', '.join(level)} level" if level else ""
        sentences.append(f"at {x:,.0f} samples {best.series} leads ({_percent(best)}){with_it}")
    gains = [f"{gain} from the least to the most data" for gain, _, _ in _gains(cells)]
    return [*sentences, *gains]


def against_series(cells: Cells, *, base: str, of: str) -> Sentences:
    """Compare every other series with one of them, at each x: so many `of` something."""
    pairs = [
        (cell, first)
        for first in cells.of(base)
        for cell in cells.at(first.x)
        if cell.series != base
    ]
    counts = dict(zip(pairs, cells.differ(pairs), strict=True))
    sentences = []
    for first in cells.of(base):
        outcomes = [
            f"{cell.series} {_signed(cell, other) if counted else 'no different beyond the spread'}"
            for (cell, other), counted in counts.items()
            if other is first
        ]
        sentences.append(
            f"with {_x(first)} {of} against {base} ({_percent(first)}): {', '.join(outcomes)}"
        )
    return sentences


def by_dimension(cells: Cells) -> Sentences:
    """Report what each series gains from its least to its most compute."""
    return [
        f"{gain} from {float(first.x):.3g} to {float(last.x):.3g} times the base's compute"
        for gain, first, last in _gains(cells)
    ]


def _gains(cells: Cells) -> Iterator[tuple[str, Cell, Cell]]:
    """What each series gains from its smallest to its largest x: a text, and the two cells."""
    names = list(dict.fromkeys(cell.series for cell in cells.cells))
    lines = [sorted(cells.of(name), key=lambda cell: float(cell.x)) for name in names]
    ends = [(line[0], line[-1]) for line in lines]
    for series, (first, last), counts in zip(names, ends, cells.differ(ends), strict=True):
        gain = "gains nothing beyond the spread"
        if counts:
            difference = _mean(last) - _mean(first)
            gain = f"{'gains' if difference > 0 else 'loses'} {_points(abs(difference))}"
        yield f"{series} {gain}", first, last


def by_compute(cells: Cells, *, subject: str) -> Sentences:
    """Report the compute of each series for the best accuracy that all reach, and its own best."""
    names = list(dict.fromkeys(cell.series for cell in cells.cells))
    fronts = {name: frontier(cells.of(name)) for name in names}
    target = min(front[-1][1] for front in fronts.values())
    price = {name: compute_for(front, target) for name, front in fronts.items()}
    sentences = [
        f"for {100 * target:.1f} %, the best that all reach: "
        + ", ".join(f"{name} {_exaflops(price[name])}" for name in names)
    ]
    for name in names:
        if name != subject and price[subject] is not None and price[name] is not None:
            ratio = price[name] / price[subject]
            sentences.append(f"{name} takes {ratio:.2g} times {subject}'s compute there")
    tops = {name: max(cells.of(name), key=_mean) for name in names}
    best, *others = sorted(tops.values(), key=_mean, reverse=True)
    every = len(cells.cells)  # the tops were picked among all
    level = [cell.series for cell in others if not cells.apart(best, cell, of=every)]
    with_it = f", {', '.join(level)} no different beyond the spread" if level else ""
    sentences.append(f"the highest accuracy is {best.series}'s ({_percent(best)}{with_it})")
    for name in names:
        front = fronts[name]
        if len(front) > 1:
            last, before = front[-1], front[-2]
            sentences.append(f"{name} gains {_points(last[1] - before[1])} in its last step up")
    return sentences


def frontier(cells: Sequence[Cell]) -> list[tuple[float, float]]:
    """Return (compute, accuracy) of the cells that beat all cheaper ones, in rising order."""
    front: list[tuple[float, float]] = []
    for cell in sorted(cells, key=lambda cell: (float(cell.x), -cell.mean)):
        if not front or cell.mean > front[-1][1]:
            front.append((float(cell.x), cell.mean))
    return front


def compute_for(front: Sequence[tuple[float, float]], accuracy: float) -> float:
    """Return the compute at which a frontier reaches an accuracy, linear in log(compute).

    If the first point reaches it, that point's compute. Raises ValueError if none does.
    """
    before: tuple[float, float] | None = None
    for x, y in front:
        if y >= accuracy:
            if before is None or y == accuracy:
                return x
            share = (accuracy - before[1]) / (y - before[1])
            return math.exp(math.log(before[0]) + share * math.log(x / before[0]))
        before = (x, y)
    raise ValueError(f"the frontier ends at {front[-1][1]}, below {accuracy}")


def spread_line(cells: Cells) -> str:
    """Describe how differences were judged."""
    if cells.spread is None:
        return "one run each: no spread is known, so no difference is claimed"
    spread = f"spread of one run {100 * cells.spread:.2f} points (over {cells.repeated}"
    if not cells.degrees:
        return f"{spread} alone, which says nothing of training): no difference is claimed"
    return (
        f"{spread}, {cells.degrees} degrees of freedom); a difference counts where noise would"
        f" claim one in a sentence in at most {LEVEL:.0%} of the studies (Student's t, Holm;"
        " Tukey's range for the best)"
    )


def _xs(cells: Cells) -> list[float]:
    return sorted({float(cell.x) for cell in cells.cells})


def _mean(cell: Cell) -> float:
    return cell.mean


def _x(cell: Cell) -> str:
    return f"{cell.x:g}" if isinstance(cell.x, int | float) else cell.x


def _percent(cell: Cell) -> str:
    return f"{100 * cell.mean:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:.1f} points"


def _signed(cell: Cell, base: Cell) -> str:
    return f"{100 * (cell.mean - base.mean):+.1f} points"


def _exaflops(value: float) -> str:
    return f"{value:.3g} exaFLOPs"
