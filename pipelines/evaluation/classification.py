"""Metrics of a classifier: generators of (name, value) over its answers.

Means are taken in float64 over images in the order of the split, so that they do not depend on
which worker computed which image.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pipelines.evaluation.answers import KEPT, Answers

BINS = 15
Metrics = Iterator[tuple[str, float]]


def top_k(answers: Answers, num_classes: int) -> Metrics:
    """Yield accuracy in [0, 1], top-5 accuracy if there are more than five classes, mean loss."""
    yield "accuracy", float(answers.right.mean())
    if num_classes > KEPT:
        yield "top_5", float((answers.top == answers.label[:, None]).any(axis=1).mean())
    yield "loss", float(answers.loss.mean())
    yield "samples", float(len(answers))


def calibration(answers: Answers, *, bins: int = BINS) -> Metrics:
    """Expected calibration error in [0, 1] (arXiv:1706.04599): how far confidence is from accuracy.

    Bins of equal width, the upper edge included; weighted by their images.
    """
    edges = np.linspace(0, 1, bins + 1)
    each = np.searchsorted(edges[1:-1], answers.confidence)  # [N]
    surplus = np.bincount(each, answers.confidence - answers.right, minlength=bins)  # [bins]
    yield "ece", float(np.abs(surplus).sum() / len(answers))
    yield "confidence", float(answers.confidence.mean())


def class_accuracy(answers: Answers, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images per class and the fraction that was right, NaN for no images: [C], [C]."""
    images = np.bincount(answers.label, minlength=num_classes)
    right = np.bincount(answers.label[answers.right], minlength=num_classes)
    share = np.full(num_classes, np.nan)
    np.divide(right, images, out=share, where=images > 0)
    return images, share


def per_class(answers: Answers, num_classes: int) -> Metrics:
    """Yield mean and lowest accuracy over classes with images, and each class's accuracy."""
    images, share = class_accuracy(answers, num_classes)
    present = np.flatnonzero(images)
    yield "class_accuracy/mean", float(share[present].mean())
    yield "class_accuracy/worst", float(share[present].min())
    for number in present.tolist():
        yield f"class_accuracy/{number}", float(share[number])


def real(answers: Answers, labels: Sequence[frozenset[int]]) -> Metrics:
    """Yield the fraction of images whose answer is one of several right labels (arXiv:2006.07159).

    Args:
        answers: of a split.
        labels: by position in the split; images without any do not count.
    """
    counted = [i for i, at in enumerate(answers.index.tolist()) if labels[at]]
    right = [answers.top[i, 0] in labels[answers.index[i]] for i in counted]
    yield "real", float(np.mean(right)) if right else float("nan")
    yield "real_samples", float(len(right))
