from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from pipelines.evaluation import neighbours
from pipelines.evaluation.neighbours import knn
from tests.pipelines.support.features import LABELS, PIXELS, TEST, TRAIN


def found(k: int = 20, temperature: float = 0.07) -> dict[str, float]:
    arrays = PIXELS[TRAIN], LABELS[TRAIN], PIXELS[TEST], LABELS[TEST]
    return dict(knn(*arrays, num_classes=10, k=k, temperature=temperature))


@pytest.mark.parametrize("k", [1, 20])
def test_equals_scikit_learns(k: int) -> None:
    ours = found(k=k)
    weighting: Any = lambda distance: np.exp((1 - distance) / 0.07)  # noqa: E731
    for name, weights in ((f"knn_{k}", weighting), (f"knn_{k}_majority", "uniform")):
        theirs = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute")
        theirs.fit(PIXELS[TRAIN].astype(np.float64), LABELS[TRAIN])
        wanted = theirs.score(PIXELS[TEST].astype(np.float64), LABELS[TEST])
        assert ours[name] == pytest.approx(wanted, abs=1e-6)
        assert ours[name] > 0.9


def test_training_images_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found()
    monkeypatch.setattr(neighbours, "_COLUMNS", 128)
    assert found() == whole


def test_a_cold_temperature_follows_the_nearest_alone() -> None:
    assert found(k=20, temperature=1e-5)["knn_20"] == found(k=1)["knn_1"]


def test_fewer_images_than_neighbours_are_all_asked() -> None:
    x, y = np.eye(3, dtype=np.float32), np.arange(3)
    metrics = dict(knn(x, y, x, y, num_classes=3, k=20))
    assert metrics["knn_20"] == 1.0
