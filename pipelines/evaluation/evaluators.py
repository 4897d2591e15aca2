"""Run the evaluators one after the other: metrics, tables and pictures."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipelines.evaluation import classification
from pipelines.evaluation.answers import Answers
from pipelines.evaluation.evaluation import Evaluation
from pipelines.evaluation.extract import Columns, Extraction, spread
from pipelines.evaluation.fewshot import few_shot
from pipelines.evaluation.figures import confusion_picture, wrong_picture
from pipelines.evaluation.mistakes import (
    class_table,
    confusion_pairs,
    most_wrong,
    pair_table,
    wrong_table,
)
from pipelines.evaluation.neighbours import knn
from pipelines.evaluation.probe import linear_probe


@dataclass(frozen=True)
class Measured:
    """Results of an evaluation."""

    metrics: dict[str, float]
    """Metrics by name, without the split."""
    files: dict[str, bytes]
    """Tables and pictures by name."""


def measure(
    evaluation: Evaluation, extraction: Extraction, note: Callable[[str], None]
) -> Measured:
    """Run the network on the images, and the evaluators on its outputs."""
    protocol, uri = evaluation.protocol, evaluation.dataset.uri
    test = extraction.columns(
        protocol.test_spec(uri), answers=protocol.answers, features=protocol.features
    )
    note(f"{len(test['index'])} images of {protocol.split}")
    metrics: dict[str, float] = {}
    files: dict[str, bytes] = {}
    if protocol.answers:
        answers = Answers.of(test)
        metrics |= dict(of_classifier(evaluation, answers))
        files |= files_of_classifier(evaluation, answers)
    if protocol.features:
        train = extraction.union(protocol.train_specs(uri))
        note(f"{len(train['index'])} images of {protocol.train_split}")
        metrics |= dict(of_features(evaluation, train, test, note))
    return Measured(metrics, files)


def of_classifier(evaluation: Evaluation, answers: Answers) -> classification.Metrics:
    """Yield the metrics of the classification head."""
    yield from classification.top_k(answers, len(evaluation.class_names))
    yield from classification.calibration(answers)
    yield from classification.per_class(answers, len(evaluation.class_names))
    if evaluation.real is not None:
        yield from classification.real(answers, evaluation.real)


def files_of_classifier(evaluation: Evaluation, answers: Answers) -> dict[str, bytes]:
    """Make the files of answers and mistakes."""
    names = evaluation.class_names
    pairs = confusion_pairs(answers, len(names))
    kept = io.BytesIO()
    np.savez_compressed(kept, allow_pickle=False, **answers.columns())
    files = {
        "answers.npz": kept.getvalue(),
        "per-class.csv": class_table(answers, names),
        "confusion.csv": pair_table(pairs, names),
        "pictures/confusion.png": confusion_picture(answers, pairs, names),
    }
    rows = most_wrong(answers)
    if len(rows):
        spec = evaluation.protocol.test_spec(evaluation.dataset.uri)
        picture, keys = wrong_picture(spec, evaluation.dataset.digest, answers.index[rows])
        files["most-wrong.csv"] = wrong_table(answers, rows, keys, names)
        files["pictures/most-wrong.png"] = picture
    return files


def of_features(
    evaluation: Evaluation, train: Columns, test: Columns, note: Callable[[str], None]
) -> Iterator[tuple[str, float]]:
    """Yield the metrics of the features before the head, computed by Ray tasks."""
    protocol, gpus = evaluation.protocol, evaluation.place.workers.gpus_each
    classes = len(evaluation.class_names)
    arrays = train["features"], train["label"], test["features"], test["label"]
    if "knn" in protocol.evaluators:
        settings = protocol.knn
        yield from knn(
            *arrays,
            num_classes=classes,
            k=settings.k,
            temperature=settings.temperature,
            spread=spread,
        )
    common: dict[str, Any] = {"num_classes": classes, "train_index": train["index"]}
    if "few-shot" in protocol.evaluators:
        settings = protocol.few_shot
        call = partial(
            few_shot, **common, shots=settings.shots, l2=settings.l2, seeds=settings.seeds
        )
        (result,) = spread(partial(_unpacked, call), [()], arrays)
        for line in result.notes:
            note(f"few-shot: {line}")
        yield from result.metrics()
    if "probe" in protocol.evaluators:
        device = "cuda" if gpus else "cpu"
        call = partial(_probe, **common, l2=protocol.probe.l2, device=device)
        (pairs,) = spread(partial(_unpacked, call), [()], arrays, gpus=gpus)
        yield from pairs


def _unpacked(call: Callable[..., Any], piece: tuple[()], *arrays: np.ndarray) -> Any:
    return call(*arrays)


def _probe(*arrays: np.ndarray, **settings: Any) -> list[tuple[str, float]]:
    return list(linear_probe(*arrays, **settings))
