import re

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge

from pipelines.evaluation.fewshot import Ridge, drawn, few_shot
from tests.pipelines.support.features import LABELS, PIXELS

Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def digits() -> tuple[Arrays, Arrays]:
    return (PIXELS[:1200], LABELS[:1200]), (PIXELS[1200:], LABELS[1200:])


def direct(x: np.ndarray, labels: np.ndarray, test: np.ndarray, l2: float, classes: int) -> Arrays:
    """Weights and outputs by solving the normal equations in float64."""
    x, test = x.astype(np.float64), test.astype(np.float64)
    mean, std = x.mean(0), x.std(0) + 1e-5
    x, test = (np.c_[(part - mean) / std, np.full(len(part), 100.0)] for part in (x, test))
    y = 2.0 * np.eye(classes)[labels] - 1.0
    weights = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)
    return weights, test @ weights


@pytest.mark.parametrize("shots", [1, 5, 10, 25])  # fewer and more images than features
@pytest.mark.parametrize("l2", [2.0**0, 2.0**10, 2.0**15])
def test_equals_a_direct_solution_in_float64(
    digits: tuple[Arrays, Arrays], shots: int, l2: float
) -> None:
    (x, y), (test, test_labels) = digits
    rows = drawn(y, np.arange(len(y)), 1).first(shots)
    wanted, outputs = direct(x[rows], y[rows], test, l2, 10)
    np.testing.assert_allclose(Ridge(x[rows], y[rows], 10).weights(l2), wanted, atol=1e-6, rtol=0)
    found = few_shot(x, y, test, test_labels, num_classes=10, shots=[shots], l2=[l2], seeds=[1])
    accuracy = (outputs.argmax(1) == test_labels).mean()
    assert found.accuracy[shots, l2, 1] == pytest.approx(accuracy, abs=1e-6)


def test_equals_scikit_learns_ridge(digits: tuple[Arrays, Arrays]) -> None:
    (x, y), _ = digits
    x, y = x[:300], y[:300]
    whole = np.c_[(x - x.mean(0)) / (x.std(0) + 1e-5), np.full(len(x), 100.0)].astype(np.float64)
    sklearn = SklearnRidge(alpha=64.0, fit_intercept=False).fit(whole, 2.0 * np.eye(10)[y] - 1)
    ours = Ridge(x.astype(np.float64), y, 10).weights(64.0)
    np.testing.assert_allclose(ours, sklearn.coef_.T, atol=1e-6)


def test_more_shots_are_better_and_all_settings_are_there(digits: tuple[Arrays, Arrays]) -> None:
    (x, y), (test, test_labels) = digits
    found = few_shot(x, y, test, test_labels, num_classes=10)
    assert len(found.accuracy) == 4 * 3
    means = [found.mean(shots, 2.0**10) for shots in (1, 5, 10, 25)]
    assert means == sorted(means)
    assert means[0] > 0.3
    assert means[-1] > 0.8
    assert not found.notes
    metrics = dict(found.metrics())
    assert metrics["few_shot/5"] == means[1]
    seeds = [metrics[f"few_shot/5_seed_{seed}"] for seed in range(3)]
    assert np.mean(seeds) == means[1]
    assert metrics["few_shot/5_spread"] == np.std(seeds, ddof=1) > 0


def test_the_order_of_the_rows_changes_no_bit(digits: tuple[Arrays, Arrays]) -> None:
    (x, y), (test, test_labels) = digits
    index = np.arange(len(x)) * 7 + 3
    shuffled = np.random.default_rng(0).permutation(len(x))
    one = few_shot(x, y, test, test_labels, num_classes=10, train_index=index)
    other = few_shot(
        *(x[shuffled], y[shuffled], test, test_labels),
        num_classes=10,
        train_index=index[shuffled],
    )
    assert one == other
    ours, theirs = (
        drawn(y[rows], index[rows], 0).first(5) for rows in (np.arange(len(x)), shuffled)
    )
    assert (index[ours] == index[shuffled][theirs]).all()


def test_a_draw_contains_the_smaller_one_and_differs_by_seed(
    digits: tuple[Arrays, Arrays],
) -> None:
    (_, y), _ = digits
    draw = drawn(y, np.arange(len(y)), 0)
    five = draw.first(5)
    assert (np.bincount(y[five]) == 5).all()
    assert set(draw.first(1)) < set(five) < set(draw.first(10))
    assert set(five) != set(drawn(y, np.arange(len(y)), 1).first(5))


def test_a_class_with_too_few_images_gives_all_it_has_and_is_named() -> None:
    y = np.array([0] * 8 + [1] * 3)
    x = np.random.default_rng(0).normal(size=(11, 4)) + y[:, None] * 5
    assert np.bincount(y[drawn(y, np.arange(11), 0).first(5)]).tolist() == [5, 3]
    found = few_shot(x, y, x, y, num_classes=3, shots=[1, 5], l2=[1.0])
    assert found.notes == (
        "1 shots: 1 classes have fewer images: 2 (0)",
        "5 shots: 2 classes have fewer images: 1 (3), 2 (0)",
    )
    assert found.mean(5, 1.0) > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": np.zeros((4, 2))}, "train features (4, 2) and labels (3,) do not fit"),
        ({"test": np.zeros((3, 5))}, "2 features to train on, 5 to test on"),
        ({"test_labels": np.array([0, 1, 9])}, "test labels span 0..9, wanted 0..1"),
        ({"train": np.full((3, 2), np.nan)}, "train features hold non-finite values"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    features, labels = np.zeros((3, 2)), np.array([0, 1, 0])
    arrays = {"train": features, "train_labels": labels, "test": features, "test_labels": labels}
    names = ("train", "train_labels", "test", "test_labels")
    train, train_labels, test, test_labels = ((arrays | change)[name] for name in names)
    with pytest.raises(ValueError, match=re.escape(message)):
        few_shot(train, train_labels, test, test_labels, num_classes=2)
