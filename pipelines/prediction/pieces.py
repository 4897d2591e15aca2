"""Images in pieces of a few hundred rows: what one task reads, and one Parquet file holds.

An image that cannot be read or decoded is a row with a reason; a store that fails is an exception.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from storage.dataset import Shard
from storage.decode import MAX_BYTES, Crop, decode
from storage.errors import BadImage, ObjectChanged, ObjectNotFound
from storage.index import SampleIndex
from storage.objects import open_store
from storage.pack.stored import Rule
from storage.reader import Damaged, read_samples

_RULE = Rule()  # converts what pack.py converts, in the same way: TIFF, BMP, HEIC, ...


class Encoded(NamedTuple):
    """One image of a piece, or the reason why there is none."""

    row: int
    """Row within the piece."""
    file: str
    """Name for people."""
    data: bytes
    error: str = ""


@dataclass(frozen=True)
class FileRef:
    """One file: the location of its folder, its name there, and its name for people."""

    folder: str
    key: str
    file: str
    version: str = ""
    """Size and time of a local file, so that a changed file is another one."""


@dataclass(frozen=True)
class Files:
    """Files, each an image."""

    refs: tuple[FileRef, ...]

    def __len__(self) -> int:
        return len(self.refs)

    def digest(self) -> str:
        """Hash of which images these are."""
        return _hash(*(f"{ref.file}\0{ref.version}" for ref in self.refs))

    def read(self) -> Iterator[Encoded]:
        """Yield every row once. Raises Unavailable, AccessDenied."""
        parallel = open_store(self.refs[0].folder).parallel_reads
        with ThreadPoolExecutor(parallel) as pool:
            yield from pool.map(_read_file, range(len(self.refs)), self.refs)


def _read_file(row: int, ref: FileRef) -> Encoded:
    store = open_store(ref.folder)
    try:
        size = store.size(ref.key)
        if size > MAX_BYTES:
            return Encoded(row, ref.file, b"", f"has {size} bytes, the limit is {MAX_BYTES}")
        return Encoded(row, ref.file, store.read(ref.key))
    except (ObjectNotFound, ObjectChanged) as error:
        return Encoded(row, ref.file, b"", str(error))


@dataclass(frozen=True)
class Samples:
    """Images inside tars, with the place of each: INDEX_ROW [n] and the tars they point into."""

    store: str
    rows: np.ndarray
    shards: tuple[Shard, ...]
    files: tuple[str, ...] | None = None
    """Names for people; None: shard and key, which are read with the image."""

    def __len__(self) -> int:
        return len(self.rows)

    def digest(self) -> str:
        """Hash of which images these are."""
        return _hash(repr([(shard.name, shard.sha256) for shard in self.shards]), self.rows)

    def read(self) -> Iterator[Encoded]:
        """Yield every row once. Raises BadDataset if a tar is missing or shorter, Unavailable."""
        index = SampleIndex(split="", rows=self.rows, shards=self.shards, num_classes=1)
        damaged: list[Damaged] = []
        every = np.arange(len(self.rows))
        for raw in read_samples(open_store(self.store), index, every, damaged=damaged):
            yield Encoded(raw.request, self._file(raw.request, raw.shard, raw.key), raw.data)
        for one in damaged:
            file = self._file(one.request, one.error.shard, one.error.key)
            yield Encoded(one.request, file, b"", one.error.reason)

    def _file(self, row: int, shard: str, key: str) -> str:
        return self.files[row] if self.files is not None else f"{shard}/{key}"


Piece = Files | Samples


def samples_of(
    store: str, index: SampleIndex, start: int, stop: int, files: tuple[str, ...] | None = None
) -> Samples:
    """The samples [start, stop) of an index, with no more tars than they lie in."""
    rows = np.array(index.rows[start:stop])
    used, rows["shard"] = np.unique(rows["shard"], return_inverse=True)
    shards = tuple(index.shards[int(number)] for number in used)
    return Samples(store, rows, shards, files and files[start:stop])


class Pixels(NamedTuple):
    """A piece, decoded."""

    image: np.ndarray
    """uint8 [n, H, W, 3]; black where there is an error."""
    file: list[str]
    error: list[str]
    """Empty where there is none."""


def decode_piece(piece: Piece, crop: Crop) -> Pixels:
    """Read and decode a piece, row by row as evaluation does."""
    count = len(piece)
    image = np.zeros((count, crop.image_size, crop.image_size, 3), dtype=np.uint8)
    files, errors = [""] * count, [""] * count
    for one in piece.read():
        files[one.row], errors[one.row] = one.file, one.error
        if one.error:
            continue
        try:
            stored = _RULE(one.data).data
            image[one.row] = decode(stored, crop, seed=0, epoch=0, index=0)
        except BadImage as error:
            errors[one.row] = str(error)
    return Pixels(image, files, errors)


def _hash(*values: str | np.ndarray) -> str:
    found = hashlib.sha256()
    for value in values:
        data = value.encode() if isinstance(value, str) else value.tobytes()
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()
