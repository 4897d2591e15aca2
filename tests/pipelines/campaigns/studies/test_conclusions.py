from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pipelines.campaigns.studies.cells import Cell, Cells, Row, cells_of
from pipelines.campaigns.studies.conclusions import (
    against_first,
    against_series,
    by_compute,
    by_data,
    by_dimension,
    compute_for,
    frontier,
    spread_line,
    trend,
)


def cells(found: dict[tuple[str, float | str], float], spread: float | None = 0.01) -> Cells:
    made = (Cell(series=s, x=x, mean=mean, count=3) for (s, x), mean in found.items())
    return Cells(tuple(made), spread, "training seeds", 20)


def embeddings(**means: float) -> list[str]:
    return against_first(
        cells({("ViT", name): mean for name, mean in means.items()}),
        first="none",
        others="the embeddings",
    )


def test_embeddings_as_in_the_paper() -> None:
    assert embeddings(none=0.614, one=0.642, two=0.640) == [
        "better than none (61.4 %): one (+2.8 points), two (+2.6 points)",
        "among the embeddings: no difference beyond the spread",
    ]


def test_embeddings_against_the_paper() -> None:
    assert embeddings(none=0.614, one=0.580, two=0.610) == [
        "worse than none (61.4 %): one (-3.4 points)",
        "no different beyond the spread from none (61.4 %): two (-0.4 points)",
        "among the embeddings: two is ahead of one by 3.0 points",
    ]


def test_nothing_is_claimed_of_single_runs() -> None:
    single = cells({("ViT", "none"): 0.1, ("ViT", "one"): 0.9}, spread=None)
    said = against_first(single, first="none", others="the embeddings")
    assert said == ["no different beyond the spread from none (10.0 %): one (+80.0 points)"]
    assert "no difference is claimed" in spread_line(single)


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ((0.5, 0.6, 0.7), "rises from the least to the most compute (p1 50.0 % -> p3 70.0 %)"),
        ((0.5, 0.8, 0.7), "rises from the least to the most compute, though not at p3 (p1"),
        ((0.7, 0.6, 0.5), "falls"),
        ((0.5, 0.6, 0.51), "no difference beyond the spread"),
    ],
)
def test_trend(means: tuple[float, ...], said: str) -> None:
    (line,) = trend(cells({(f"p{i}", i): mean for i, mean in enumerate(means, 1)}))
    assert said in line


def test_who_leads_at_each_data_size_and_what_more_data_brings() -> None:
    said = by_data(
        cells(
            {
                ("ViT", 100): 0.30,
                ("ViT", 1000): 0.70,
                ("BiT", 100): 0.50,
                ("BiT", 1000): 0.695,
                ("flat", 100): 0.2,
                ("flat", 1000): 0.21,
            }
        )
    )
    assert said == [
        "at 100 samples BiT leads (50.0 %)",
        "at 1,000 samples ViT leads (70.0 %) with BiT level",
        "ViT gains 40.0 points from the least to the most data",
        "BiT gains 19.5 points from the least to the most data",
        "flat gains nothing beyond the spread from the least to the most data",
    ]


def test_what_each_dimension_of_the_shape_gains() -> None:
    said = by_dimension(
        cells(
            {
                ("depth", 0.5): 0.40,
                ("depth", 1.0): 0.50,
                ("depth", 7.9): 0.60,
                ("width", 1.0): 0.50,
                ("width", 0.25): 0.49,
            }
        )
    )
    assert said == [
        "depth gains 20.0 points from 0.5 to 7.9 times the base's compute",
        "width gains nothing beyond the spread from 0.25 to 1 times the base's compute",
    ]


def test_each_series_against_one_of_them_at_each_x() -> None:
    found = cells(
        {
            ("scratch", 10): 0.50,
            ("scratch", 100): 0.70,
            ("mae", 10): 0.60,
            ("mae", 100): 0.702,
            ("patch", 10): 0.40,
            ("patch", 100): 0.80,
        }
    )
    assert against_series(found, base="scratch", of="labels a class") == [
        "with 10 labels a class against scratch (50.0 %): mae +10.0 points, patch -10.0 points",
        "with 100 labels a class against scratch (70.0 %): mae no different beyond the spread,"
        " patch +10.0 points",
    ]


def test_frontier_drops_what_a_cheaper_cell_reaches() -> None:
    found = cells({("a", 1.0): 0.5, ("a", 2.0): 0.4, ("a", 4.0): 0.6}).cells
    assert frontier(found) == [(1.0, 0.5), (4.0, 0.6)]


def test_compute_between_points_is_straight_in_its_logarithm() -> None:
    front = [(1.0, 0.4), (100.0, 0.6)]
    assert compute_for(front, 0.5) == pytest.approx(10.0)
    assert compute_for(front, 0.3) == 1.0
    assert compute_for(front, 0.6) == 100.0
    with pytest.raises(ValueError, match="below"):
        compute_for(front, 0.7)


def test_scaling_compares_compute_at_the_best_that_all_reach() -> None:
    said = by_compute(
        cells({("ViT", 1.0): 0.4, ("ViT", 100.0): 0.6, ("BiT", 10.0): 0.3, ("BiT", 40.0): 0.5}),
        subject="ViT",
    )
    assert said[0] == ("for 50.0 %, the best that all reach: ViT 10 exaFLOPs, BiT 40 exaFLOPs")
    assert said[1] == "BiT takes 4 times ViT's compute there"
    assert said[2] == "the highest accuracy is ViT's (60.0 %)"
    assert said[3] == "ViT gains 20.0 points in its last step up"


STUDIES = 400  # of pure noise; 5 % of them, and three standard errors of that


def noise(names: Sequence[tuple[str, float | str]], seeds: int, rng: np.random.Generator) -> Cells:
    """A study whose points differ by their seeds alone."""
    rows = [
        Row(
            series=series,
            x=x,
            seed=seed,
            stage="",
            attempt="",
            parameters=0,
            images=0,
            exaflops=0.0,
            metrics={"m": 0.5 + 0.01 * rng.standard_normal()},
        )
        for series, x in names
        for seed in range(seeds)
    ]
    return cells_of(rows, "m")


def highest_line(cells: Cells) -> str:
    """It names the two other series where they are level."""
    (line,) = [one for one in by_compute(cells, subject="ViT") if one.startswith("the highest")]
    return line


GRID = [(series, x) for series in ("ViT", "BiT", "R") for x in (1.0, 2.0, 4.0)]
LINE = [("ViT", name) for name in ("none", "1d", "2d", "relative")]
STEPS = [(f"p{x}", float(x)) for x in (1, 2, 3, 4)]


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize(
    ("names", "claims"),
    [
        (LINE, lambda c: ["than none" in "".join(against_first(c, first="none", others="them"))]),
        (LINE, lambda c: ["ahead" in "".join(against_first(c, first="none", others="them"))]),
        (STEPS, lambda c: ["no difference" not in trend(c)[0]]),
        (GRID, lambda c: ["leads" in line for line in by_data(c)[:3]]),
        (GRID, lambda c: [any("points" in line for line in by_data(c)[3:])]),
        (GRID, lambda c: [any("points" in line for line in by_dimension(c))]),
        (GRID, lambda c: [highest_line(c).count(",") < 2]),
        (GRID, lambda c: ["points" in "".join(against_series(c, base="R", of="labels"))]),
    ],
    ids=[
        "against first",
        "best and worst",
        "trend",
        "leader",
        "gains",
        "dimensions",
        "highest",
        "against a series",
    ],
)
def test_noise_is_called_a_difference_in_at_most_five_percent(
    names: list[tuple[str, float | str]], claims: Callable[[Cells], list[bool]], seeds: int
) -> None:
    rng = np.random.default_rng(seeds)
    found = np.array([claims(noise(names, seeds, rng)) for _ in range(STUDIES)])
    assert found.mean(axis=0).max() <= 0.05 + 3 * (0.05 * 0.95 / STUDIES) ** 0.5


def test_one_seed_claims_nothing() -> None:
    rng = np.random.default_rng(0)
    said = by_data(noise(GRID, 1, rng)) + trend(noise(STEPS, 1, rng))
    assert all("beyond the spread" in line for line in said)
