import math
import statistics
from dataclasses import replace

import pytest

from pipelines.campaigns.studies.cells import Row, cells_of


def row(series: str, x: float | str, value: float, *, seed: int = 0, draws: float = 0.0) -> Row:
    metrics = {"few_shot/5": value} | ({"few_shot/5_spread": draws} if draws else {})
    return Row(
        series=series,
        x=x,
        seed=seed,
        stage=f"{series}-{x}-s{seed}",
        attempt="0123456789abcdef",
        parameters=1,
        images=2,
        exaflops=3.0,
        metrics=metrics,
    )


def test_cells_are_means_over_seeds_in_the_order_of_the_rows() -> None:
    rows = [row("b", 2, 0.5), row("b", 2, 0.7, seed=1), row("a", 1, 0.1)]
    cells = cells_of(rows, "few_shot/5")
    assert [(c.series, c.x, c.count) for c in cells.cells] == [("b", 2, 2), ("a", 1, 1)]
    assert cells.cells[0].mean == pytest.approx(0.6)
    assert cells.repeated == "training seeds"
    assert cells.spread == pytest.approx(statistics.stdev([0.5, 0.7]))


def test_the_spread_is_pooled_over_cells() -> None:
    groups = {1: [0.5, 0.6, 0.7], 2: [0.2, 0.6]}
    rows = [row("a", x, v, seed=i) for x, found in groups.items() for i, v in enumerate(found)]
    pooled = (statistics.variance(groups[1]) * 2 + statistics.variance(groups[2])) / 3
    assert cells_of(rows, "few_shot/5").spread == pytest.approx(math.sqrt(pooled))


def test_without_training_seeds_it_is_that_of_the_draws() -> None:
    cells = cells_of([row("a", 1, 0.5, draws=0.03), row("a", 2, 0.6, draws=0.04)], "few_shot/5")
    assert cells.repeated == "few-shot draws"
    assert cells.spread == pytest.approx(math.sqrt((0.03**2 + 0.04**2) / 2))
    far = replace(cells.cells[0], mean=9.0)
    assert cells.differ([(far, cells.cells[1])]) == [False]  # one seed: nothing is claimed


def test_without_repetition_no_difference_counts() -> None:
    cells = cells_of([row("a", 1, 0.1), row("a", 2, 0.9)], "few_shot/5")
    assert cells.spread is None
    first, second = cells.cells
    assert cells.differ([(first, second)]) == [False]
    assert not cells.apart(*cells.cells, of=2)


def test_a_difference_counts_by_students_t() -> None:
    def found(gap: float) -> bool:
        rows = [row("a", x, v, seed=i) for x in (0, 1) for i, v in enumerate((0.50, 0.52))]
        rows += [row("a", 2, 0.51 + gap, seed=i) for i in (0, 1)]
        cells = cells_of(rows, "few_shot/5")
        assert cells.degrees == 3
        return cells.differ([(cells.cells[0], cells.cells[2])])[0]

    # t of 3 degrees exceeds 3.18 in 5 %; the standard error is sqrt(2 / 3 * 0.0002)
    assert not found(0.036)
    assert found(0.037)


def test_a_flat_row_has_metrics_as_columns() -> None:
    flat = row("a", "none", 0.5).flat()
    assert flat["few_shot/5"] == 0.5
    assert flat["x"] == "none"
    assert "metrics" not in flat
