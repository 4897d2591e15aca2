"""Which samples of a split a stage trains on: some classes, or a few examples of each."""

from dataclasses import dataclass

import numpy as np

from storage.errors import BadSelection
from storage.index import SampleIndex
from storage.permutation import mix64


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A subset of a split. The default selects everything."""

    classes: tuple[int, ...] | None = None
    """Only these classes of the dataset; they become labels 0, 1, ... in this order. Default:
    all."""
    per_class: int | None = None
    """At most so many examples a class (few-shot), drawn by `seed`; a larger number contains a
    smaller one's."""
    seed: int = 0
    """Seed of the draw of `per_class`."""

    def __post_init__(self) -> None:
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise BadSelection(f"classes {self.classes} names one twice")
        if self.classes is not None and not self.classes:
            raise BadSelection("classes is empty: leave it out to select all")
        if self.per_class is not None and self.per_class < 1:
            raise BadSelection(f"per_class {self.per_class} selects nothing: it must be at least 1")

    def num_classes(self, of_dataset: int) -> int:
        """Labels that are left of the dataset's."""
        return of_dataset if self.classes is None else len(self.classes)

    @property
    def everything(self) -> bool:
        """Whether the whole split is selected as it is."""
        return self.classes is None and self.per_class is None


EVERYTHING = Selection()


def select(index: SampleIndex, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the split, ascending, and their renumbered labels -> int64 [n], int64 [n].

    Raises BadSelection for a class the dataset does not have, or a selection without samples.
    """
    labels = np.asarray(index.labels, dtype=np.int64)  # [N]
    num_classes = index.num_classes
    wanted = selection.classes if selection.classes is not None else tuple(range(num_classes))
    outside = [c for c in wanted if not 0 <= c < num_classes]
    if outside:
        raise BadSelection(
            f"classes {outside} were asked for, the dataset has {num_classes}: 0..{num_classes - 1}"
        )
    renumbered = np.full(num_classes, -1, dtype=np.int64)
    renumbered[list(wanted)] = np.arange(len(wanted))
    position = np.flatnonzero(renumbered[labels] >= 0)  # [n]
    if selection.per_class is not None:
        position = _few(position, labels[position], selection.per_class, selection.seed)
    if not len(position):
        raise BadSelection(
            f"no sample of classes {list(wanted)} in the split ({len(labels)} samples)"
        )
    return position, renumbered[labels[position]]


def _few(position: np.ndarray, label: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """The `per_class` positions of each label with the smallest hash: nested in `per_class`."""
    with np.errstate(over="ignore"):
        salt = mix64(np.array([seed], dtype=np.int64).astype(np.uint64))
        draw = mix64(mix64(position.astype(np.uint64)) ^ salt)  # [n]
    by_class = np.lexsort((draw, label))
    starts = np.flatnonzero(np.r_[True, np.diff(label[by_class]) != 0])
    rank = np.arange(len(by_class)) - np.repeat(starts, np.diff(np.r_[starts, len(by_class)]))
    return np.sort(position[by_class[rank < per_class]])
