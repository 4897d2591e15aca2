"""Read several right labels per image from a JSON file such as reassessed-imagenet's `real.json`.

The file is a list: entry i holds the labels of the i-th image. Where the split's samples are named
as ImageNet's (`ILSVRC2012_val_00000001`, ...) the i-th image is the one of that number, in whatever
order they were packed; else it is sample i of the split. Or it is an object: sample key -> labels.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipelines.recipes.errors import Mistake
from storage.index import SampleIndex, name_hash

_SUFFIXES = ("jpg", "JPEG", "jpeg", "png", "webp")
_LEAST_AGREEMENT = 0.5  # of ImageNet's own labels nine in ten are among the reassessed ones


def read_real(path: Path, index: SampleIndex) -> tuple[frozenset[int], ...]:
    """The right labels of each sample of a split, by position; none for those without an entry.

    Raises:
        Mistake: the file is missing, is no such JSON, names labels the dataset has not, is for
            another number of images, or agrees so little with the split's own labels that its
            entries must be of other images.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise Mistake(f"--real {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise Mistake(f"{path}: wanted JSON, a list of lists of labels: {error}") from None
    if isinstance(content, dict):
        labels = _by_key(path, content, index)
    elif isinstance(content, list):
        labels = _by_number(path, content, index)
    else:
        raise Mistake(f"{path}: wanted a list of lists of labels, found {type(content).__name__}")
    _check_agreement(path, labels, index)
    return labels


def _by_key(
    path: Path, content: Mapping[str, object], index: SampleIndex
) -> tuple[frozenset[int], ...]:
    by_name = {
        name_hash(f"{key}.{suffix}"): _labels(path, key, labels, index.num_classes)
        for key, labels in content.items()
        for suffix in _SUFFIXES
    }
    by_position = tuple(by_name.get(name, frozenset()) for name in index.rows["name"].tolist())
    if not any(by_position):
        raise Mistake(
            f"{path}: none of its {len(content)} keys, such as {next(iter(content), '')!r}, is the"
            f" key of a sample of split {index.split!r}"
        )
    return by_position


def _by_number(
    path: Path, content: Sequence[object], index: SampleIndex
) -> tuple[frozenset[int], ...]:
    if len(content) != len(index):
        raise Mistake(
            f"{path}: {len(content)} entries, but split {index.split!r} has {len(index)} samples"
        )
    sets = [_labels(path, i, labels, index.num_classes) for i, labels in enumerate(content)]
    numbers = {
        name_hash(f"ILSVRC2012_val_{i + 1:08d}.{suffix}"): i
        for i in range(len(sets))
        for suffix in _SUFFIXES
    }
    names = index.rows["name"].tolist()
    if all(name in numbers for name in names):
        return tuple(sets[numbers[name]] for name in names)
    return tuple(sets)


def _labels(path: Path, entry: object, labels: object, num_classes: int) -> frozenset[int]:
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise Mistake(f"{path}: entry {entry}: wanted a list of labels, found {labels!r:.60}")
    if any(not 0 <= label < num_classes for label in labels):
        raise Mistake(
            f"{path}: entry {entry}: labels {labels}, but the dataset has classes 0 to"
            f" {num_classes - 1}"
        )
    return frozenset(labels)


def _check_agreement(path: Path, label_sets: Sequence[frozenset[int]], index: SampleIndex) -> None:
    labels = index.labels.tolist()
    own = [label in several for label, several in zip(labels, label_sets, strict=True) if several]
    if not own:
        raise Mistake(f"{path}: no entry has a label")
    if np.mean(own) < _LEAST_AGREEMENT:
        raise Mistake(
            f"{path}: only {np.mean(own):.0%} of its entries hold the label that the sample has in"
            f" split {index.split!r}: they are of other images, or in another order - give an"
            " object of sample key -> labels"
        )
