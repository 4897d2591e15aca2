"""Few-shot accuracy by ridge regression in closed form, as big_vision's `fewshot_lsr` has it.

A linear map from frozen features to targets in {-1, 1} is fitted to a few images of each class; the
largest output names the class. Features are standardised by the few images alone, and get one more
of the constant 100: a bias that is hardly regularised. One eigendecomposition serves all l2.

Which images are drawn follows from (position in the split, seed) and nothing else: not from the
order of the rows, not from who computed them. 5 shots contain the 1 shot of the same seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from storage.selection import draw_within_class

SHOTS = (1, 5, 10, 25)
SEEDS = (0, 1, 2)
L2 = 2.0**10
BIAS = 100.0
_EPSILON = 1e-5  # added to the standard deviation
_ROWS = 4096  # test images at once: bounds memory

_NAMED = 5  # classes named in a note

Setting = tuple[int, float, int]
"""Shots, l2, seed."""


@dataclass(frozen=True)
class FewShot:
    """Results of few-shot regression."""

    accuracy: dict[Setting, float]
    """Test accuracy in [0, 1] by (shots, l2, seed)."""
    notes: tuple[str, ...]
    """One line per number of shots for which some class has too few images."""

    def mean(self, shots: int, l2: float) -> float:
        """Mean accuracy over seeds."""
        return float(np.mean(self._over_seeds(shots, l2)))

    def spread(self, shots: int, l2: float) -> float:
        """Standard deviation over seeds (of the sample: n - 1); 0 for one seed."""
        accuracies = self._over_seeds(shots, l2)
        return float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0

    def metrics(self) -> Iterator[tuple[str, float]]:
        """`few_shot/5`: mean over seeds; beside it the spread and each seed. The name includes l2
        if there are several."""
        several = len({l2 for _, l2, _ in self.accuracy}) > 1
        for shots, l2 in dict.fromkeys((shots, l2) for shots, l2, _ in self.accuracy):
            name = f"few_shot/{shots}" + (f"_l2_{l2:g}" if several else "")
            yield name, self.mean(shots, l2)
            yield f"{name}_spread", self.spread(shots, l2)
            for setting, value in self.accuracy.items():
                if setting[:2] == (shots, l2):
                    yield f"{name}_seed_{setting[2]}", value

    def _over_seeds(self, shots: int, l2: float) -> list[float]:
        return [value for key, value in self.accuracy.items() if key[:2] == (shots, l2)]


def few_shot(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    train_index: np.ndarray | None = None,
    shots: Sequence[int] = SHOTS,
    l2: Sequence[float] = (L2,),
    seeds: Sequence[int] = SEEDS,
) -> FewShot:
    """Test accuracy of a linear map fitted to a few images of each class, in float64.

    Args:
        train: features [N, D].
        train_labels: int [N] in [0, num_classes).
        test: features [M, D].
        test_labels: int [M].
        num_classes: outputs of the map; a class without a training image is never right.
        train_index: int [N], distinct: the position of each row in its split, which the draw
            depends on. Default: the row.
        shots: images per class; a class with fewer gives all it has, and a note reports it.
        l2: strengths of the regularisation; big_vision's is 2^10.
        seeds: of the draw.

    Raises:
        ValueError: arrays that do not fit together, or nothing to fit or to test.
    """
    _check(train, train_labels, test, test_labels, num_classes)
    index = np.arange(len(train)) if train_index is None else train_index
    accuracy: dict[Setting, float] = {}
    for seed in seeds:
        draw = drawn(train_labels, index, seed)
        for count in shots:
            rows = draw.first(count)
            ridge = Ridge(train[rows], train_labels[rows], num_classes)
            for strength in l2:
                right = ridge.predict(test, strength) == test_labels
                accuracy[count, strength, seed] = float(right.mean())
    ordered = {(s, r, seed): accuracy[s, r, seed] for s in shots for r in l2 for seed in seeds}
    return FewShot(ordered, tuple(_short(train_labels, num_classes, shots)))


class Ridge:
    """Least squares with l2 regularisation, solved for all strengths by one eigendecomposition.

    With X [n, D] and Y [n, C] the solution is (X'X + l2)^-1 X'Y = X'(XX' + l2)^-1 Y: the smaller of
    the two Gram matrices is decomposed.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
        x = features.astype(np.float64)  # [n, D]
        self.mean = x.mean(axis=0)
        self.std = x.std(axis=0) + _EPSILON
        x = self._standardised(x)  # [n, D + 1]
        y = np.full((len(labels), num_classes), -1.0)
        y[np.arange(len(labels)), labels] = 1.0
        if len(x) >= x.shape[1]:
            self._eigenvalues, basis = np.linalg.eigh(x.T @ x)
            self._left, self._right = basis, basis.T @ (x.T @ y)
        else:
            self._eigenvalues, basis = np.linalg.eigh(x @ x.T)
            self._left, self._right = x.T @ basis, basis.T @ y

    def weights(self, l2: float) -> np.ndarray:
        """The map from standardised features and bias to targets: float64 [D + 1, C]."""
        return (self._left / (self._eigenvalues + l2)) @ self._right

    def predict(self, features: np.ndarray, l2: float) -> np.ndarray:
        """Classes of features [M, D]: int64 [M]."""
        weights = self.weights(l2)
        classes = [
            (self._standardised(features[at : at + _ROWS].astype(np.float64)) @ weights).argmax(1)
            for at in range(0, len(features), _ROWS)
        ]
        return np.concatenate(classes)

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        """[n, D] -> [n, D + 1]."""
        return np.pad((x - self.mean) / self.std, ((0, 0), (0, 1)), constant_values=BIAS)


@dataclass(frozen=True)
class Draw:
    """All rows by class, each class in drawn order."""

    rows: np.ndarray
    """int64 [N]."""
    rank: np.ndarray
    """Place of a row in the draw of its class: int64 [N]."""

    def first(self, shots: int) -> np.ndarray:
        """Rows of the first so many of each class."""
        return self.rows[self.rank < shots]


def drawn(labels: np.ndarray, index: np.ndarray, seed: int) -> Draw:
    """Draw within each class by a hash of (index, seed): labels int [N], index int [N]."""
    return Draw(*draw_within_class(index, labels, seed))


def _short(labels: np.ndarray, num_classes: int, shots: Sequence[int]) -> Iterator[str]:
    have = np.bincount(labels, minlength=num_classes)
    for count in shots:
        short = np.flatnonzero(have < count)
        if len(short):
            named = ", ".join(f"{c} ({have[c]})" for c in short[:_NAMED].tolist())
            more = f" and {len(short) - _NAMED} more" if len(short) > _NAMED else ""
            yield f"{count} shots: {len(short)} classes have fewer images: {named}{more}"


def _check(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
) -> None:
    for name, features, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if features.ndim != 2 or len(features) != len(labels) or not len(labels):
            raise ValueError(
                f"few-shot: {name} features {features.shape} and labels {labels.shape} do not fit"
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(
                f"few-shot: {name} labels span {labels.min()}..{labels.max()}, wanted 0.."
                f"{num_classes - 1}"
            )
        if not np.isfinite(features).all():
            raise ValueError(f"few-shot: {name} features hold non-finite values")
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"few-shot: {train.shape[1]} features to train on, {test.shape[1]} to test on"
        )
