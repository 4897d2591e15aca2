"""The index of a split: 32 bytes per sample in a plain .npy that is mapped, never unpickled.

A local index is mapped in place, one on S3 from a local copy (`index_files`). Each is checked once
per machine: its checksum, and that every row points into its shards. 300 million samples are 9.6 GB
on disk, and none of it becomes a Python object.
"""

import hashlib
import mmap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from storage.dataset import Dataset, IndexFile, Shard
from storage.errors import BadDataset
from storage.index_files import check_once, local_index
from storage.objects import open_store
from storage.tar_header import BLOCK as HEADER_BYTES

_ROWS_AT_ONCE = 1 << 20
INDEX_ROW = np.dtype(
    [
        ("offset", "<u8"),  # first byte of the image in its shard; its tar header is the 512 before
        ("name", "<u8"),  # hash of the image member's name, see `name_hash`
        ("size", "<u4"),  # bytes of the image
        ("crc", "<u4"),  # crc32 of the image's bytes
        ("shard", "<u4"),  # row of the split's shard table
        ("label", "<i4"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """Place of each sample of a split. A sample's position in the split is its row."""

    split: str
    rows: np.ndarray
    """INDEX_ROW [N], in shard order and within a shard in byte order."""
    shards: tuple[Shard, ...]
    num_classes: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """Label of every sample: int32 [N]."""
        return self.rows["label"]

    def all_labels(self) -> np.ndarray:
        """A copy of every label: int64 [N]. Reads the whole index."""
        _expect(self.rows, mmap.MADV_SEQUENTIAL)
        try:
            return self.labels.astype(np.int64)
        finally:
            _expect(self.rows, mmap.MADV_RANDOM)


def name_hash(name: str) -> int:
    """Hash of a member's name for the index: 64 bits.

    The name may contain surrogates for bytes that are not UTF-8: a flipped bit makes them, and so
    does GNU tar, which cuts long names inside a letter.
    """
    data = name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def load_index(dataset: Dataset, split: str) -> SampleIndex:
    """Map the index of a split read-only, once per process. Raises BadDataset, Unavailable."""
    shards = dataset.shards(split)
    file = dataset.indexes[split]
    if not file.bytes or not shards:
        raise BadDataset(f"split {split!r} of {dataset.uri} is empty: pack it again")
    rows = _map_index(dataset.uri, file, shards, len(dataset.classes))
    if len(rows) != dataset.samples(split):
        raise BadDataset(
            f"{dataset.uri}/{file.name} has {len(rows)} rows, the manifest counts "
            f"{dataset.samples(split)} samples: pack it again"
        )
    if not len(rows):
        raise BadDataset(f"split {split!r} of {dataset.uri} is empty: pack it again")
    return SampleIndex(split=split, rows=rows, shards=shards, num_classes=len(dataset.classes))


@lru_cache(maxsize=16)
def _map_index(
    uri: str, file: IndexFile, shards: tuple[Shard, ...], num_classes: int
) -> np.ndarray:
    path = local_index(open_store(uri), file)
    where = f"{uri}/{file.name}"
    try:
        rows = np.lib.format.open_memmap(path, mode="r")  # .npy alone: no zip, no pickle
    except Exception as error:  # numpy may raise anything for a damaged header
        if isinstance(error, MemoryError):
            raise
        raise BadDataset(f"{where} is not an index ({error}): pack it again") from None
    if rows.dtype != INDEX_ROW or rows.ndim != 1:
        raise BadDataset(f"{where} has rows of {rows.dtype}, wanted {INDEX_ROW}: pack it again")
    content = hashlib.sha256(repr((file.sha256, shards, num_classes)).encode()).hexdigest()
    check_once(path, content, lambda: _check_rows(where, rows, shards, num_classes))
    _expect(rows, mmap.MADV_RANDOM)
    return rows


def _check_rows(where: str, rows: np.ndarray, shards: tuple[Shard, ...], num_classes: int) -> None:
    """Check that every row points into its shard and has a class. Raises BadDataset."""
    ends = np.array([shard.bytes for shard in shards], dtype=np.uint64)  # [shards]
    _expect(rows, mmap.MADV_SEQUENTIAL)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]  # [n]
        known = part["shard"] < len(shards)
        end = ends[np.where(known, part["shard"], 0)]  # uint64 [n]
        inside = (part["size"] <= end) & (part["offset"] >= HEADER_BYTES)
        inside &= part["offset"] <= end - np.minimum(part["size"], end)
        label = (part["label"] >= 0) & (part["label"] < num_classes)
        wrong = np.flatnonzero(~(known & inside & label))
        if len(wrong):
            row = part[wrong[0]]
            raise BadDataset(
                f"{where}: sample {start + int(wrong[0])} has label {row['label']} of"
                f" {num_classes} and bytes {row['offset']}+{row['size']} of shard {row['shard']},"
                f" which do not exist ({len(shards)} shards): pack it again"
            )


def _expect(rows: np.ndarray, advice: int) -> None:
    """Tell the kernel how a mapped index is going to be read.

    A stream reads single pages at random. With read-ahead each one reads 128 KiB, or the 8 MiB that
    some disks are set to: a thousand such reads in 300 million samples would then read 8 GB.
    """
    if isinstance(rows.base, mmap.mmap):
        rows.base.madvise(advice)


def save_index(folder: Path, split: str, rows: np.ndarray) -> Path:
    """Write INDEX_ROW [N] as the index file of a split."""
    assert rows.dtype == INDEX_ROW, rows.dtype
    path = folder / f"index-{split}.npy"
    np.save(path, rows, allow_pickle=False)
    return path
