"""What the packer asks of a source of images: counts, and one sample at a time, in any order."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from storage.errors import BadSource


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


class LeftOut(Exception):
    """Raised by `Source.read` for a sample that cannot be packed: it is counted and named."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason


class Source(Protocol):
    """Images of known classes, in one or more splits. Raises BadSource where it is made."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        ...

    @property
    def splits(self) -> Mapping[str, int]:
        """Split -> number of samples that will be tried."""
        ...

    def read(self, split: str, i: int) -> Sample:
        """Sample i of a split. Raises LeftOut for one that cannot be packed."""
        ...


def is_validation(name: str, *, fraction: float) -> bool:
    """Whether the sample of that name falls into the validation split: by hash, for ever the same.

    A sample keeps its side when others are added, which a split by position would not do.
    """
    draw = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return draw < fraction * 2.0**64


def check_splits(where: str, splits: Mapping[str, int]) -> None:
    """Raise BadSource if a split is empty."""
    for name, count in splits.items():
        if not count:
            raise BadSource(f"{where}: split {name!r} would be empty ({dict(splits)})")
