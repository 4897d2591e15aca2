from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipelines.evaluation.probe import fit, linear_probe
from tests.pipelines.support.features import LABELS, PIXELS, TEST, TRAIN


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a task: on a busy machine two threads wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_the_fit_is_scikit_learns(l2: float) -> None:
    x, y = PIXELS[TRAIN].astype(np.float64), LABELS[TRAIN]
    standard = (x - x.mean(0)) / (x.std(0) + 1e-5)
    theirs = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-9, max_iter=5000).fit(standard, y)
    ours = fit(PIXELS[TRAIN], y, 10, l2=l2)
    np.testing.assert_allclose(ours.weight, theirs.coef_, atol=1e-4)
    test = (PIXELS[TEST] - x.mean(0)) / (x.std(0) + 1e-5)
    assert ours.accuracy(PIXELS[TEST], LABELS[TEST]) == pytest.approx(
        theirs.score(test, LABELS[TEST]), abs=1e-6
    )


def test_l2_is_chosen_on_held_out_training_images_and_the_test_is_not_looked_at() -> None:
    def run(test_labels: np.ndarray) -> dict[str, float]:
        arrays = PIXELS[TRAIN], LABELS[TRAIN], PIXELS[TEST], test_labels
        return dict(linear_probe(*arrays, num_classes=10, l2=(1e-3, 100.0)))

    found = run(LABELS[TEST])
    assert found["probe_l2"] == 1e-3
    assert found["probe"] > 0.9
    assert found["probe_held_out"] > 0.9
    other = run((LABELS[TEST] + 1) % 10)
    assert other["probe"] < 0.1
    assert {k: v for k, v in other.items() if k != "probe"} == {
        k: v for k, v in found.items() if k != "probe"
    }


def test_a_separable_problem_is_solved() -> None:
    x = np.array([[0.0], [1.0], [10.0], [11.0]])
    probe = fit(x, np.array([0, 0, 1, 1]), 2, l2=1e-4)
    assert probe.accuracy(x, np.array([0, 0, 1, 1])) == 1.0
    assert probe.logits(x).dtype == torch.float64
