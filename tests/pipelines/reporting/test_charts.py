"""Charts: round ticks, honest reduction, places inside the axes."""

import math
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from pipelines.reporting.amounts import amount, byte_amount
from pipelines.reporting.charts import HEIGHT, WIDTH, Series, chart, number, spans, ticks


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.31, 2.27), (1, 400), (-3, 8), (1e-5, 3e-4), (0.9201, 0.9283), (5, 5), (0, 0)],
)
def test_ticks_are_few_round_and_around_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert found[0] <= low
    assert found[-1] >= high
    gaps = {round((b - a) / (found[1] - found[0]), 6) for a, b in pairwise(found)}
    assert gaps == {1.0}
    digits = f"{found[1] - found[0]:.6e}".partition("e")[0].rstrip("0").rstrip(".")
    assert digits in ("1", "2", "2.5", "5")


def test_a_long_curve_becomes_means_with_their_extremes() -> None:
    curve = [(step, math.sin(step)) for step in range(1, 1001)]
    found = spans(curve, most=100)
    assert len(found) == 100
    first = [value for _, value in curve[:10]]
    assert found[0].mean == pytest.approx(sum(first) / 10)
    assert (found[0].least, found[0].largest) == (min(first), max(first))
    assert found[0].step == 5.5
    assert spans(curve[:7]) == spans(curve[:7], most=7)
    assert [one.mean for one in spans(curve[:7])] == [value for _, value in curve[:7]]


def places(svg: str, kind: str) -> list[tuple[float, float]]:
    (points,) = re.findall(rf'<polyline class="line {kind}" points="([^"]+)"', svg)
    return [tuple(map(float, point.split(","))) for point in points.split()]  # type: ignore[misc]


def test_curves_lie_inside_the_axes_and_keep_their_shape() -> None:
    falling = [(step, 2.3 / step) for step in range(1, 401)]
    svg = chart("Loss", "nats", [Series("training", falling), Series("validation", [(400, 0.5)])])
    found = places(svg, "s1")
    assert len(found) <= 240
    for x, y in found:
        assert 52 <= x <= WIDTH - 22
        assert 12 <= y <= HEIGHT - 40
    assert [x for x, _ in found] == sorted(x for x, _ in found)
    assert [y for _, y in found] == sorted(y for _, y in found)  # down the page
    assert svg.count("<circle") == 1  # the one evaluation is a dot
    assert "optimizer step" in svg
    assert ">nats</text>" in svg
    assert svg.count("<li>") == 2  # a legend, for there are two
    assert "<li>" not in chart("Loss", "nats", [Series("training", falling)])


def test_charts_of_one_stage_have_one_scale_of_steps() -> None:
    short = chart("a", "u", [Series("s", [(200, 1.0), (400, 2.0)])], last_step=400)
    middle, end = (x for x, _ in places(short, "s1"))
    assert end == WIDTH - 22
    assert middle == pytest.approx((52 + end) / 2)
    for text in ("0", "200", "400"):
        assert f"middle>{text}</text>" in short


def test_what_is_no_number_is_not_drawn_and_said() -> None:
    curve = [(1, 1.0), (2, math.nan), (3, math.inf), (4, 0.5)]
    svg = chart("Loss", "nats", [Series("training", curve)])
    assert "2 non-finite values" in svg
    assert "nan" not in svg
    assert len(places(svg, "s1")) == 2
    assert chart("Loss", "nats", [Series("training", [(1, math.nan)])]) == ""
    assert chart("Loss", "nats", []) == ""


@pytest.mark.parametrize("curve", [[(0, 0.0)], [(7, -2.0)], [(1, 3.0), (2, 3.0)], [(0, 1e-30)]])
def test_flat_and_single_values_are_drawn(curve: list[tuple[int, float]]) -> None:
    svg = chart("t", "u", [Series("s", curve)])
    coordinates = [float(found) for found in re.findall(r'[xy]="(-?[\d.]+)"', svg)]
    assert coordinates
    assert all(0 <= value <= WIDTH for value in coordinates)


def test_names_are_text() -> None:
    tags: set[str] = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            tags.add(tag)

    svg = chart("<b>", "<i>", [Series("</svg><script>", [(1, 1.0), (2, 2.0)], dots=True)])
    Tags().feed(svg)
    assert "svg" in tags
    assert not {"b", "i", "script"} & tags


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.92084, "0.9208"), (12400.0, "12,400"), (1.2e-5, "1.2e-5"), (3e8, "3e8")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_amounts_have_units() -> None:
    assert amount(25_600) == "25.6 k"
    assert amount(999.9) == "1 k"
    assert amount(3.2e15, "FLOP") == "3.2 PFLOP"
    assert amount(5e21, "FLOP") == "5e+03 EFLOP"
    assert amount(None) == "-"
    assert byte_amount(1536) == "1.5 KiB"
    assert byte_amount(0) == "0 B"
