"""Tables of confused classes and of the worst mistakes."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.answers import Answers
from pipelines.evaluation.classification import class_accuracy

MOST_PAIRS = 1000  # lines of the table
SHOWN = 64  # images of the picture


@dataclass(frozen=True)
class Pair:
    """Images of one class that were taken for another."""

    label: int
    taken_for: int
    images: int
    share: float
    """Of the images of the class."""


def confusion_pairs(answers: Answers, num_classes: int, *, most: int = MOST_PAIRS) -> list[Pair]:
    """The pairs that occur, most frequent first; of equally frequent ones the lower classes."""
    wrong = ~answers.right
    pairs, count = np.unique(
        np.stack([answers.label[wrong], answers.top[wrong, 0]], axis=1), axis=0, return_counts=True
    )  # [n, 2] ascending, [n]
    images, _ = class_accuracy(answers, num_classes)
    order = np.argsort(-count, kind="stable")[:most]
    return [
        Pair(label, taken, int(count[i]), float(count[i] / images[label]))
        for i in order.tolist()
        for label, taken in [pairs[i].tolist()]
    ]


def most_wrong(answers: Answers, *, most: int = SHOWN) -> np.ndarray:
    """Rows of the wrong answers with the largest loss, largest first: int64 [n]."""
    wrong = np.flatnonzero(~answers.right)
    return wrong[np.argsort(-answers.loss[wrong], kind="stable")[:most]]


def class_table(answers: Answers, names: Sequence[str]) -> bytes:
    """Accuracy of each class, as CSV."""
    images, share = class_accuracy(answers, len(names))
    rows = ((i, names[i], images[i], "" if not images[i] else share[i]) for i in range(len(names)))
    return _csv(("class", "name", "images", "accuracy"), rows)


def pair_table(pairs: Sequence[Pair], names: Sequence[str]) -> bytes:
    """Confusion pairs, as CSV."""
    rows = (
        (p.label, names[p.label], p.taken_for, names[p.taken_for], p.images, p.share) for p in pairs
    )
    return _csv(("class", "name", "taken_for", "taken_for_name", "images", "share"), rows)


def wrong_table(
    answers: Answers, rows: np.ndarray, keys: Sequence[tuple[str, str]], names: Sequence[str]
) -> bytes:
    """The worst mistakes, as CSV; `keys` are (shard, key) of the rows."""
    lines = (
        (
            *(int(answers.index[row]), *key),
            *(names[int(answers.label[row])], names[int(answers.top[row, 0])]),
            *(answers.confidence[row], answers.loss[row]),
        )
        for row, key in zip(rows.tolist(), keys, strict=True)
    )
    return _csv(("position", "shard", "key", "label", "answer", "confidence", "loss"), lines)


def _csv(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(rows)
    return text.getvalue().encode()
