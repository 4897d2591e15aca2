import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import balanced_accuracy_score, log_loss, top_k_accuracy_score

from pipelines.evaluation.answers import Answers, answer
from pipelines.evaluation.classification import calibration, per_class, real, top_k

N, C = 997, 12


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    draw = np.random.default_rng(0)
    return (draw.normal(size=(N, C)) * 2).astype(np.float32)


@pytest.fixture(scope="module")
def labels(logits: np.ndarray) -> np.ndarray:
    """Often the likeliest class; class 11 has none."""
    draw = np.random.default_rng(1)
    return np.where(draw.random(N) < 0.5, logits[:, :-1].argmax(1), draw.integers(0, C - 1, N))


@pytest.fixture(scope="module")
def answers(logits: np.ndarray, labels: np.ndarray) -> Answers:
    found = answer(torch.from_numpy(logits), torch.from_numpy(labels))
    return Answers.of({**found, "index": np.arange(N)})


def softmax(logits: np.ndarray) -> np.ndarray:
    wide = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return wide / wide.sum(1, keepdims=True)


def test_accuracies_and_loss_are_scikit_learns(
    answers: Answers, logits: np.ndarray, labels: np.ndarray
) -> None:
    found = dict(top_k(answers, C))
    every = list(range(C))
    assert found["accuracy"] == top_k_accuracy_score(labels, logits, k=1, labels=every)
    assert found["top_5"] == top_k_accuracy_score(labels, logits, k=5, labels=every)
    assert found["loss"] == pytest.approx(log_loss(labels, softmax(logits), labels=every), rel=1e-9)
    assert found["samples"] == N
    assert 0.4 < found["accuracy"] < found["top_5"] < 1


@pytest.mark.parametrize(("classes", "there"), [(4, False), (5, False), (6, True)])
def test_top_5_of_five_classes_is_no_metric(classes: int, there: bool) -> None:
    found = answer(torch.eye(classes), torch.arange(classes))
    answers = Answers.of({**found, "index": np.arange(classes)})
    assert ("top_5" in dict(top_k(answers, classes))) is there


def test_calibration_is_that_of_a_float64_reference(
    answers: Answers, logits: np.ndarray, labels: np.ndarray
) -> None:
    probability = softmax(logits)
    confidence, right = probability.max(1), probability.argmax(1) == labels
    total = 0.0
    for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15, strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    found = dict(calibration(answers))
    assert found["ece"] == pytest.approx(total / N, abs=1e-12)
    assert found["confidence"] == pytest.approx(confidence.mean(), abs=1e-12)

    share, mean = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    images = np.histogram(confidence, 15, (0, 1))[0]
    weights = images[images > 0] / N
    assert found["ece"] == pytest.approx((weights * abs(share - mean)).sum(), abs=1e-12)


def test_a_sure_and_right_network_is_calibrated_and_a_sure_and_wrong_one_is_not() -> None:
    logits = torch.eye(3) * 100
    for labels, wanted in (([0, 1, 2], 0.0), ([1, 2, 0], 1.0)):
        found = answer(logits, torch.tensor(labels))
        answers = Answers.of({**found, "index": np.arange(3)})
        assert dict(calibration(answers))["ece"] == pytest.approx(wanted)


def test_the_mean_over_classes_is_scikit_learns_balanced_accuracy(
    answers: Answers, logits: np.ndarray, labels: np.ndarray
) -> None:
    found = dict(per_class(answers, C))
    kept = logits.argmax(1)
    with pytest.warns(UserWarning, match="not in y_true"):
        wanted = balanced_accuracy_score(labels, kept)
    assert found["class_accuracy/mean"] == pytest.approx(wanted)
    assert found["class_accuracy/3"] == (kept[labels == 3] == 3).mean()
    assert found["class_accuracy/worst"] == min(found[f"class_accuracy/{c}"] for c in range(C - 1))
    assert "class_accuracy/11" not in found


def test_real_counts_any_of_the_right_labels_and_skips_images_without(answers: Answers) -> None:
    first, second = answers.top[:, 0], answers.top[:, 1]
    labels = [frozenset({int(a), 99}) for a in first]
    labels[0], labels[1] = frozenset(), frozenset({int(second[1])})
    found = dict(real(answers, labels))
    assert found == {"real": pytest.approx((N - 2) / (N - 1)), "real_samples": N - 1}


def test_of_equal_logits_the_first_class_is_the_answer() -> None:
    found = answer(torch.zeros(2, 7), torch.tensor([0, -1]))  # a fresh head, and padding
    assert found["top"].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert found["confidence"].tolist() == pytest.approx([1 / 7] * 2)


def test_answers_come_in_the_order_of_the_split(answers: Answers) -> None:
    shuffled = np.random.default_rng(2).permutation(N)
    again = Answers.of({name: column[shuffled] for name, column in answers.columns().items()})
    for name, column in answers.columns().items():
        assert (again.columns()[name] == column).all()
