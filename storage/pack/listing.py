"""A list of many files as three arrays: 14 million names are 0.5 GB that Ray maps once per node.

A list of tuples would be unpickled into Python objects by every task.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from storage.pack.source import hash_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """Names of N files, and k numbers about each."""

    names: np.ndarray
    """All names joined, UTF-8: uint8 [bytes]."""
    ends: np.ndarray
    """End of each name: int64 [N]."""
    numbers: np.ndarray
    """Numbers about each file: int64 [N, k]."""

    @classmethod
    def of(cls, files: Iterable[tuple[str, tuple[int, ...]]], *, columns: int) -> "Listing":
        """Build a listing from pairs of a name and its numbers."""
        names, ends, numbers = bytearray(), array("q"), array("q")
        for name, about in files:
            assert len(about) == columns, about
            names += name.encode("utf-8", "surrogateescape")
            ends.append(len(names))
            numbers.extend(about)
        return cls(
            names=np.frombuffer(bytes(names), np.uint8),
            ends=np.array(ends, np.int64),
            numbers=np.array(numbers, np.int64).reshape(-1, columns),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        return (self.name(i) for i in range(len(self)))

    def name(self, i: int) -> str:
        """Name of file i."""
        start = int(self.ends[i - 1]) if i else 0
        return self.names[start : int(self.ends[i])].tobytes().decode("utf-8", "surrogateescape")

    def about(self, i: int) -> list[int]:
        """The numbers of file i."""
        return self.numbers[i].tolist()

    def identity(self) -> str:
        """Hash of names and numbers."""
        return hash_of(self.names, self.ends, self.numbers)
