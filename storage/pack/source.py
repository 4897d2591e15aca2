"""Interface of a source of images: counts, and one sample at a time, in any order.

A source is sent to the tasks that pack its shards, so it must pickle, be small (arrays instead of a
Python object per file) and open its files only when it reads.
"""

import hashlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.errors import BadSource, printable
from storage.pack.shrink import require_library
from storage.resized import Resized

_SUFFIXES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png"}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image as it will lie in a tar."""

    key: str
    """Name without suffix: unique in its split, no dots (WebDataset cuts a name at its first
    dot)."""
    suffix: str
    """jpg, png or webp."""
    data: bytes
    label: int
    notes: tuple[str, ...] = ()
    """What was done to the image; notes are counted and reported at the end."""


class LeftOut(Exception):
    """Raised by `Source.read` for a sample that cannot be packed: it is counted and named."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(printable(what), reason)
        self.what = printable(what)
        self.reason = reason


class Source(ABC):
    """Images of known classes, in one or more splits. The constructor raises BadSource."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""

    @property
    @abstractmethod
    def splits(self) -> Mapping[str, int]:
        """Split -> number of samples that will be tried."""

    @abstractmethod
    def read(self, split: str, i: int) -> Sample:
        """Sample i of a split. Raises LeftOut for one that cannot be packed."""

    @abstractmethod
    def identity(self) -> str:
        """A cheap hash of the input: if it changes, packing starts over."""

    @property
    def notes(self) -> Mapping[str, int]:
        """Remarks about the source for the user, each with the number of files it concerns."""
        return {}

    @property
    def resized(self) -> Resized | None:
        """How `read` makes large images smaller; None if it does not."""
        return None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Absolute paths that `read` needs; empty if everything is in memory."""
        return ()

    def blocks(self, split: str) -> np.ndarray | None:
        """Edges of the blocks of samples that can only be read together: int64 [B + 1].

        None if each sample can be read by itself.
        """
        return None

    def require_here(self) -> None:
        """Raise BadSource if this node does not see the source's files, or resizes otherwise."""
        if self.resized:
            require_library(self.resized)
        for path in self.paths:
            if not path.exists():
                raise BadSource(f"{path} is not there on node {_ADVICE}")


_ADVICE = (
    f"{socket.gethostname()}: packing reads the source from every node; put it on shared storage, "
    "or run without a cluster"
)


def read_labelled(source: Source, split: str, i: int) -> Sample:
    """Sample i of a split, whose label is one of the classes. Raises LeftOut."""
    sample = source.read(split, i)
    if not 0 <= sample.label < len(source.classes):
        reason = f"label {sample.label} of {len(source.classes)} classes"
        raise LeftOut(sample.key, reason)
    return sample


def gone(path: Path) -> BadSource:
    """The error for a file that was listed and is not there: leaving it out would lose it
    silently."""
    return BadSource(f"{path} was listed, but is not there on node {_ADVICE}")


def suffix_of(data: bytes) -> str | None:
    """jpg, png or webp by the first bytes, whatever the file is called."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((suffix for magic, suffix in _SUFFIXES.items() if data.startswith(magic)), None)


def hash_of(*parts: str | bytes | np.ndarray) -> str:
    """Hex hash of a sequence of texts, bytes and arrays."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, np.ndarray):
            data: bytes | memoryview = np.ascontiguousarray(part).data  # not a copy
        else:
            data = part.encode() if isinstance(part, str) else part
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        digest.update(size.to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def is_validation(name: str, *, fraction: float) -> bool:
    """Whether the sample of that name is in the validation split, by hash: it never changes.

    A sample stays in its split when others are added, unlike with a split by position.
    """
    draw = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return draw < fraction * 2.0**64


def check_splits(where: str, splits: Mapping[str, int]) -> None:
    """Raise BadSource if a split is empty."""
    for name, count in splits.items():
        if not count:
            raise BadSource(f"{where}: split {name!r} would be empty ({dict(splits)})")
