"""Select samples of a split to train or evaluate on: some classes, some examples.

Draws are prefixes of one order by hash, so larger draws contain smaller ones, and one selection can
`skip` what another takes: 800 samples for training and 200 held out of the same 1,000 are
`Selection(samples=800)` and `Selection(samples=200, skip=800)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storage.errors import BadSelection
from storage.index import SampleIndex
from storage.permutation import mix64


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A subset of a split. The default selects everything."""

    classes: tuple[int, ...] | None = None
    """Classes of the dataset to use, as labels 0, 1, ... in this order. If None, all."""
    labels: tuple[int, ...] | None = None
    """Label of each of those classes, to merge several into one: 0 1 0 1 ... separates odd from
    even digits."""
    per_class: int | None = None
    """Most examples per class (few-shot), drawn by `seed`; a larger draw contains the smaller."""
    samples: int | None = None
    """Most examples in all, drawn by `seed`; a larger draw contains the smaller."""
    skip: int = 0
    """Number of examples to leave out at the front of that draw, which another selection takes."""
    seed: int = 0
    """Seed of the draw of `per_class` or `samples`."""

    def __post_init__(self) -> None:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise BadSelection(f"classes {self.classes} contains a class twice")
        if self.classes is not None and not self.classes:
            raise BadSelection("classes is empty: omit it to select all")
        for name in ("per_class", "samples"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise BadSelection(f"{name} must be at least 1, found {count}")
        if self.skip < 0:
            raise BadSelection(f"skip {self.skip}: wanted at least 0")
        if self.per_class is not None and (self.samples is not None or self.skip):
            raise BadSelection(
                f"per_class {self.per_class} and samples {self.samples} (skip {self.skip}) cannot"
                " be combined: give only one of them"
            )
        if self.labels is not None:
            self._check_labels(self.labels)

    def _check_labels(self, labels: tuple[int, ...]) -> None:
        if not labels or sorted(set(labels)) != list(range(max(labels) + 1)):
            raise BadSelection(f"labels {labels}: wanted 0, 1, ... without a gap")
        if self.classes is not None and len(labels) != len(self.classes):
            raise BadSelection(
                f"labels {labels} has {len(labels)} entries, but classes has {len(self.classes)}"
            )

    def num_classes(self, of_dataset: int) -> int:
        """Number of classes after the selection, of `of_dataset` classes before."""
        if self.labels is not None:
            return max(self.labels) + 1
        return of_dataset if self.classes is None else len(self.classes)

    def class_names(self, of_dataset: Sequence[str]) -> tuple[str, ...]:
        """Names by label after the selection; names of merged classes are joined by +.

        Raises BadSelection for a class that the dataset does not have.
        """
        chosen = self.classes if self.classes is not None else tuple(range(len(of_dataset)))
        labels = self.labels if self.labels is not None else tuple(range(len(chosen)))
        if len(labels) != len(chosen) or not all(0 <= c < len(of_dataset) for c in chosen):
            raise BadSelection(
                f"classes {self.classes} and labels {self.labels} do not fit a dataset of"
                f" {len(of_dataset)} classes"
            )
        joined: dict[int, list[str]] = {}
        for label, number in zip(labels, chosen, strict=True):
            joined.setdefault(label, []).append(of_dataset[number])
        return tuple("+".join(joined[label]) for label in sorted(joined))

    @property
    def everything(self) -> bool:
        """Whether the whole split is selected as it is."""
        return self == Selection(seed=self.seed)


EVERYTHING = Selection()


def select(index: SampleIndex, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the split, ascending, and their new labels -> int64 [n], int64 [n].

    Raises BadSelection for a class the dataset does not have, labels that do not fit its classes,
    or a selection without samples.
    """
    labels = index.all_labels()  # [N]
    num_classes = index.num_classes
    wanted = selection.classes if selection.classes is not None else tuple(range(num_classes))
    outside = [c for c in wanted if not 0 <= c < num_classes]
    if outside:
        raise BadSelection(
            f"the dataset has no classes {outside}, only {num_classes}: 0..{num_classes - 1}"
        )
    new = selection.labels if selection.labels is not None else tuple(range(len(wanted)))
    if len(new) != len(wanted):
        raise BadSelection(
            f"labels {new} has {len(new)} entries, but the dataset has {num_classes} classes"
        )
    renumbered = np.full(num_classes, -1, dtype=np.int64)
    renumbered[list(wanted)] = new
    position = np.flatnonzero(renumbered[labels] >= 0)  # [n]
    if selection.per_class is not None:
        position = _few(position, labels[position], selection.per_class, selection.seed)
    if selection.samples is not None or selection.skip:
        stop = None if selection.samples is None else selection.skip + selection.samples
        drawn = position[np.argsort(_draw(position, selection.seed))]
        position = np.sort(drawn[selection.skip : stop])
    if not len(position):
        skipped = f", {selection.skip} skipped" if selection.skip else ""
        raise BadSelection(
            f"no sample of classes {list(wanted)} in the split ({len(labels)} samples{skipped})"
        )
    return position, renumbered[labels[position]]


def _draw(position: np.ndarray, seed: int) -> np.ndarray:
    """Random sort key of each position [n]: uint64 [n]."""
    with np.errstate(over="ignore"):
        salt = mix64(np.array([seed], dtype=np.int64).astype(np.uint64))
        return mix64(mix64(position.astype(np.uint64)) ^ salt)


def draw_within_class(
    position: np.ndarray, label: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the samples of each class in an order that depends only on position and seed.

    Args:
        position: position of each sample in its split, int [N].
        label: label of each sample, int [N].
        seed: seed of the order.

    Returns:
        rows int [N], sorted by class and within a class by draw; and the rank [N] of each of them
        in its class's draw, from 0.
    """
    rows = np.lexsort((_draw(position, seed), label))
    starts = np.flatnonzero(np.r_[True, np.diff(label[rows]) != 0])
    lengths = np.diff(np.r_[starts, len(rows)])
    return rows, np.arange(len(rows)) - np.repeat(starts, lengths)


def _few(position: np.ndarray, label: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """The first `per_class` positions drawn of each label; a larger draw contains the smaller."""
    rows, rank = draw_within_class(position, label, seed)
    return np.sort(position[rows[rank < per_class]])
