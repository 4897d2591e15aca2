"""Curves as inline SVG, readable in light and dark: colours are the page's CSS variables.

A long curve is drawn as means over equal spans of steps, with a band from the least to the largest
value of each span. Nothing is smoothed beyond that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pipelines.reporting.content import Curve

WIDTH, HEIGHT = 380, 230
"""Units of the drawing: about the pixels it gets on a phone, so that text keeps its size."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 22, 12, 40
_MOST_POINTS = 240
_TICKS = 5


@dataclass(frozen=True)
class Series:
    """One curve of a chart."""

    name: str
    curve: Curve
    dots: bool = False
    """Draw a dot at each value: for evaluations, which are few."""


@dataclass(frozen=True)
class Span:
    """Some neighbouring steps of a curve as one point."""

    step: float
    mean: float
    least: float
    largest: float


def chart(title: str, unit: str, series: Sequence[Series], *, last_step: int = 1) -> str:
    """Draw a figure with heading, legend (for more than one curve), axes and curves.

    Steps go from 0 to `last_step` at least, so that charts of one stage have one scale. Non-finite
    values are left out and counted in a note. Returns "" if no curve has a value.
    """
    finite = [
        Series(line.name, [p for p in line.curve if math.isfinite(p[1])], line.dots)
        for line in series
    ]
    left_out = sum(len(line.curve) for line in series) - sum(len(line.curve) for line in finite)
    finite = [line for line in finite if line.curve]
    if not finite:
        return ""
    label = f"{title}: " + "; ".join(_spoken(line) for line in finite)
    svg = _svg(unit, finite, label, last_step)
    legend = _legend(finite)
    note = f"<p class=note>{left_out} non-finite values are not drawn.</p>" if left_out else ""
    heading = f"<h4>{escape(title)}</h4>"
    return f"<figure class=chart>{heading}{legend}{svg}{_values(finite)}{note}</figure>"


def spans(curve: Curve, most: int = _MOST_POINTS) -> list[Span]:
    """The curve in at most `most` spans of equally many points each."""
    size = max(1, math.ceil(len(curve) / most))
    result = []
    for start in range(0, len(curve), size):
        part = curve[start : start + size]
        values = [value for _, value in part]
        middle = sum(step for step, _ in part) / len(part)
        result.append(Span(middle, math.fsum(values) / len(part), min(values), max(values)))
    return result


def ticks(low: float, high: float, count: int = _TICKS) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`: about `count` of them."""
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 2.5, 5, 10) if times * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [at * step for at in range(first, last + 1)]


def number(value: float) -> str:
    """A value in few characters: 0.9208, 1.2e-05, 12,400."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    size = abs(value)
    if size >= 1e7 or size < 1e-3:
        mantissa, _, power = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _svg(unit: str, series: Sequence[Series], label: str, last_step: int) -> str:
    parts = [spans(line.curve) for line in series]
    last = max(last_step, *(line.curve[-1][0] for line in series))
    across = ticks(0, last)
    up = ticks(
        min(span.least for spans_ in parts for span in spans_),
        max(span.largest for spans_ in parts for span in spans_),
    )

    def x(step: float) -> float:
        return _LEFT + step / last * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - up[0]) / (up[-1] - up[0]) * (HEIGHT - _TOP - _BOTTOM)

    drawn = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{escape(label)}">',
        *(
            f'<path class=grid d="M{_LEFT} {y(at):.1f}H{WIDTH - _RIGHT}"/>'
            f'<text class=tick x="{_LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor=end>'
            f"{number(at)}</text>"
            for at in up
        ),
        *(
            f'<text class=tick x="{x(at):.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor=middle>'
            f"{number(at)}</text>"
            for at in across
            if at <= last and at == int(at)
        ),
        f'<path class=axis d="M{_LEFT} {HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"/>',
        f'<text class=label x="{(WIDTH + _LEFT - _RIGHT) / 2:.0f}" y="{HEIGHT - 6}"'
        " text-anchor=middle>optimizer step</text>",
        f'<text class=label transform="translate(12 {(HEIGHT - _BOTTOM + _TOP) / 2:.0f})'
        f' rotate(-90)" text-anchor=middle>{escape(unit)}</text>',
    ]
    for at, (line, points) in enumerate(zip(series, parts, strict=True), start=1):
        if any(span.largest > span.least for span in points):
            upper = " ".join(f"{x(span.step):.1f},{y(span.largest):.1f}" for span in points)
            lower = " ".join(f"{x(s.step):.1f},{y(s.least):.1f}" for s in reversed(points))
            drawn.append(f'<polygon class="band s{at}" points="{upper} {lower}"/>')
        if len(points) > 1:
            path = " ".join(f"{x(span.step):.1f},{y(span.mean):.1f}" for span in points)
            drawn.append(f'<polyline class="line s{at}" points="{path}"/>')
        if line.dots or len(points) == 1:
            drawn += [
                f'<circle class="dot s{at}" cx="{x(span.step):.1f}" cy="{y(span.mean):.1f}" r=4>'
                f"<title>{escape(line.name)}, step {number(span.step)}: {number(span.mean)}"
                "</title></circle>"
                for span in points
            ]
    return "".join([*drawn, "</svg>"])


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    entries = "".join(
        f"<li><span class='swatch s{at}'></span>{escape(line.name)}</li>"
        for at, line in enumerate(series, start=1)
    )
    return f"<ul class=legend>{entries}</ul>"


def _values(series: Sequence[Series]) -> str:
    """Describe the curves in words, for readers who cannot see the drawing."""
    words = "; ".join(_spoken(line) for line in series)
    return f"<figcaption>{escape(words)}</figcaption>"


def _spoken(series: Series) -> str:
    step, value = series.curve[-1]
    least = min(series.curve, key=lambda point: point[1])
    largest = max(series.curve, key=lambda point: point[1])
    if least[1] == largest[1]:
        return f"{series.name} {number(value)} at step {step:,}"
    return (
        f"{series.name} {number(value)} at step {step:,} (least {number(least[1])} at {least[0]:,},"
        f" most {number(largest[1])} at {largest[0]:,})"
    )
