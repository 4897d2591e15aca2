"""Draw a selection from a large split once per machine, and map it in all processes.

Positions and labels of 14 million samples are 224 MB, and drawing them takes several times that:
neither fits on a node where 64 processes decode.
"""

import fcntl
import hashlib
import os
from pathlib import Path

import numpy as np

from storage.index import SampleIndex
from storage.index_files import private_folder
from storage.selection import Selection, select

_LARGE = 1_000_000


def drawn(index: SampleIndex, selection: Selection, digest: str) -> tuple[np.ndarray, np.ndarray]:
    """The result of `select`, int64 [n] and int64 [n]; for a large split mapped from a file.

    Raises BadSelection, as `select` does.
    """
    if len(index) < _LARGE:
        return select(index, selection)
    name = hashlib.sha256(f"{digest}/{index.split}/{selection!r}".encode()).hexdigest()
    path = private_folder() / f"selection-{name}.npy"
    with path.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _write(path, np.stack(select(index, selection)))
    positions, labels = np.load(path, mmap_mode="r", allow_pickle=False)  # int64 [2, n]
    return positions, labels


def _write(path: Path, rows: np.ndarray) -> None:
    """Write a file that appears completely or not at all."""
    part = path.with_name(f"{path.stem}-{os.getpid()}.npy")
    try:
        np.save(part, rows, allow_pickle=False)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
