"""Tables of a large split, each computed once per machine and mapped in all processes.

Positions and labels of a selection of 14 million samples are 224 MB, and drawing them takes several
times that: neither fits on a node where 64 processes decode. The samples by class of a balanced
order are 112 MB, and so are those by dataset of a mixture.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from storage.balance import samples_by_class
from storage.index import SampleIndex
from storage.index_files import private_folder
from storage.mixture import Member, member_of
from storage.selection import Selection, select

_LARGE = 1_000_000


def drawn(index: SampleIndex, selection: Selection, digest: str) -> tuple[np.ndarray, np.ndarray]:
    """The result of `select`, int64 [n] and int64 [n]; for a large split mapped from a file.

    Raises BadSelection, as `select` does.
    """
    if len(index) < _LARGE:
        return select(index, selection)
    key = f"{digest}/{index.split}/{selection!r}"
    positions, labels = _mapped("selection", key, lambda: np.stack(select(index, selection)))
    return positions, labels  # rows of int64 [2, n]


def grouped(
    index: SampleIndex, selection: Selection, labels: np.ndarray, *, digest: str, seed: int
) -> np.ndarray:
    """The result of `samples_by_class`, int64 [C + 1 + n]; of a large selection from a file.

    Args:
        index: of the split.
        selection: part of the split.
        labels: label of each selected sample, int [n].
        digest: digest of the dataset.
        seed: seed of the order.
    """
    if len(labels) < _LARGE:
        return samples_by_class(labels, digest=digest, seed=seed)

    def table() -> np.ndarray:
        every = index.all_labels() if selection.everything else labels
        return samples_by_class(every, digest=digest, seed=seed)

    return _mapped("classes", f"{digest}/{index.split}/{selection!r}/{seed}", table)


def grouped_by_member(
    index: SampleIndex,
    selection: Selection,
    positions: np.ndarray | None,
    members: Sequence[Member],
    *,
    digest: str,
    seed: int,
) -> np.ndarray:
    """The same by the datasets of a mixture: int64 [M + 1 + n].

    Args:
        index: of the split.
        selection: part of the split.
        positions: position in the split of each selected sample, int [n]; None if all are.
        members: the datasets.
        digest: digest of the mixture.
        seed: seed of the order.
    """

    def table() -> np.ndarray:
        shard = index.rows["shard"] if positions is None else index.rows["shard"][positions]
        member = member_of(members, index.split, shard)
        return samples_by_class(member, digest=digest, seed=seed, classes=len(members))

    if (len(index) if positions is None else len(positions)) < _LARGE:
        return table()
    return _mapped("members", f"{digest}/{index.split}/{selection!r}/{seed}", table)


def _mapped(kind: str, key: str, table: Callable[[], np.ndarray]) -> np.ndarray:
    """The table of that kind and key, mapped from a file that the first process writes."""
    path = private_folder() / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()}.npy"
    with path.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _write(path, table())
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _write(path: Path, rows: np.ndarray) -> None:
    """Write a file that appears completely or not at all."""
    part = path.with_name(f"{path.stem}-{os.getpid()}.npy")
    try:
        np.save(part, rows, allow_pickle=False)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
