"""k nearest neighbours by cosine similarity, weighted as in DINO (arXiv:2104.14294)."""

from collections.abc import Callable, Iterator

import numpy as np

_ROWS = 1024  # test images a piece: 64 k x 1 k similarities are 256 MiB
_COLUMNS = 1 << 16  # training images at once

K = 20
TEMPERATURE = 0.07
Piece = tuple[np.ndarray, np.ndarray]
"""Of a piece of test images: similarities float32 [b, k], descending, and rows int64 [b, k]."""
Spread = Callable[[Callable[..., Piece], list[np.ndarray], tuple[object, ...]], list[Piece]]


def here(
    call: Callable[..., Piece], pieces: list[np.ndarray], shared: tuple[object, ...]
) -> list[Piece]:
    """Call for one piece after the other, in this process."""
    return [call(piece, *shared) for piece in pieces]


def knn(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_classes: int,
    k: int = K,
    temperature: float = TEMPERATURE,
    spread: Spread = here,
) -> Iterator[tuple[str, float]]:
    """Accuracy of the vote of the k nearest, weighted by exp(similarity / temperature) and plain.

    Args:
        train: features [N, D].
        train_labels: int [N].
        test: features [M, D].
        test_labels: int [M].
        num_classes: classes that are voted for; of equals the first wins.
        k: neighbours; all if there are fewer.
        temperature: of the weights.
        spread: computes the pieces of the test images, perhaps elsewhere.
    """
    unit = normalized(train)
    pieces = [normalized(test[at : at + _ROWS]) for at in range(0, len(test), _ROWS)]
    neighbours = spread(nearest, pieces, (unit, min(k, len(train))))
    similarity = np.concatenate([part[0] for part in neighbours]).astype(np.float64)  # [M, k]
    labels = train_labels[np.concatenate([part[1] for part in neighbours])]  # [M, k]
    # The largest weight is 1: exp(1 / 0.01) would still fit, 1 / 0.001 would not.
    weights = np.exp((similarity - similarity[:, :1]) / temperature)
    weighted = votes(labels, weights, num_classes).argmax(axis=1)
    plain = votes(labels, np.ones_like(weights), num_classes).argmax(axis=1)
    yield f"knn_{k}", float((weighted == test_labels).mean())
    yield f"knn_{k}_majority", float((plain == test_labels).mean())


def nearest(test: np.ndarray, train: np.ndarray, k: int) -> Piece:
    """The k most similar rows of train [N, D] to each of test [b, D], both of length 1."""
    rows = np.arange(len(test))[:, None]
    best = np.full((len(test), 0), 0, np.float32)
    at = np.zeros((len(test), 0), np.int64)
    for start in range(0, len(train), _COLUMNS):
        similarity = test @ train[start : start + _COLUMNS].T  # [b, n]
        best = np.concatenate([best, similarity], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + similarity.shape[1]), similarity.shape)
        at = np.concatenate([at, numbers], axis=1)
        keep = np.argpartition(-best, min(k, best.shape[1]) - 1, axis=1)[:, :k]
        best, at = best[rows, keep], at[rows, keep]
    order = np.lexsort((at, -best), axis=1)
    return best[rows, order], at[rows, order]


def votes(labels: np.ndarray, weights: np.ndarray, num_classes: int) -> np.ndarray:
    """Sum of the weights by label: int [M, k], float64 [M, k] -> float64 [M, C]."""
    total = np.zeros((len(labels), num_classes))
    np.add.at(total, (np.arange(len(labels))[:, None], labels), weights)
    return total


def normalized(features: np.ndarray) -> np.ndarray:
    """Rows of length 1: [N, D] -> float32 [N, D]."""
    wide = features.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.maximum(length, 1e-12)).astype(np.float32)
