"""The index of a split: one row of 32 bytes a sample, a plain .npy that is mapped, never unpickled.

A local index is mapped where it lies; one on S3 is fetched once a machine, checked, kept in a cache
named by its checksum and mapped from there. 300 million samples are 9.6 GB on disk, and none of it
is a Python object.
"""

import fcntl
import hashlib
import mmap
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from storage.checksum import sha256_file
from storage.dataset import Dataset, IndexFile, Shard
from storage.errors import BadDataset, BadInput
from storage.local import LocalStore
from storage.objects import open_store
from storage.store import ObjectStore

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
    """Where each sample of a split lies. A sample's position in the split is its row."""

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
        """A copy of every label: int64 [N]. Reads the index from one end to the other."""
        _expect(self.rows, mmap.MADV_SEQUENTIAL)
        try:
            return self.labels.astype(np.int64)
        finally:
            _expect(self.rows, mmap.MADV_RANDOM)


def name_hash(name: str) -> int:
    """64 bits that stand for a member's name in the index.

    The name may hold surrogates: bytes that are not UTF-8, as a flipped bit makes them, or GNU tar,
    which cuts long names inside a letter.
    """
    data = name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def load_index(dataset: Dataset, split: str) -> SampleIndex:
    """The index of a split, mapped read-only and cached by process. Raises BadDataset,
    Unavailable."""
    shards = dataset.shards(split)
    file = dataset.indexes[split]
    rows = _map_index(dataset.uri, file)
    if len(rows) != dataset.samples(split):
        raise BadDataset(
            f"{dataset.uri}/{file.name} has {len(rows)} rows, the manifest counts "
            f"{dataset.samples(split)} samples: pack it again"
        )
    if not len(rows):
        raise BadDataset(f"split {split!r} of {dataset.uri} is empty: pack it again")
    return SampleIndex(split=split, rows=rows, shards=shards, num_classes=len(dataset.classes))


@lru_cache(maxsize=16)
def _map_index(uri: str, file: IndexFile) -> np.ndarray:
    path = _local_index(open_store(uri), file)
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadDataset(f"{uri}/{file.name} is not an index ({error}): pack it again") from None
    if rows.dtype != INDEX_ROW or rows.ndim != 1:
        raise BadDataset(f"{uri}/{file.name} has rows of {rows.dtype}, wanted {INDEX_ROW}")
    _expect(rows, mmap.MADV_RANDOM)
    return rows


def _expect(rows: np.ndarray, advice: int) -> None:
    """Tell the kernel how a mapped index is going to be read.

    A stream looks at a page here and there. With read-ahead each look reads 128 KiB, or the 8 MiB
    that some disks are set to: a thousand looks at 300 million samples then read 8 GB.
    """
    if isinstance(rows.base, mmap.mmap):
        rows.base.madvise(advice)


def _local_index(store: ObjectStore, file: IndexFile) -> Path:
    """A local file with the index's bytes."""
    if isinstance(store, LocalStore):
        path = store.root / file.name
        found = path.stat().st_size if path.is_file() else None
        if found != file.bytes:
            raise BadDataset(
                f"{path} has {found} bytes, its manifest says {file.bytes}: pack it again"
            )
        return path
    cache = private_folder()
    path = cache / f"{file.sha256}.npy"
    with (cache / f"{file.sha256}.lock").open("wb") as lock:
        # One process a machine fetches it: 300 million samples are 9.6 GB, and all decoding
        # processes ask at once. Who dies lets go.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path.is_file() and path.stat().st_size == file.bytes):
            _fetch(store, file, path)
    return path


def private_folder() -> Path:
    """This machine's folder of mapped files, of this user alone. Raises BadDataset."""
    folder = Path(tempfile.gettempdir()) / f"vit-on-ray-index-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise BadDataset(f"{folder} belongs to another user: remove it, or set TMPDIR elsewhere")
    return folder


def _fetch(store: ObjectStore, file: IndexFile, path: Path) -> None:
    fetched = path.with_name(f"{file.sha256}-{os.getpid()}")  # checked before its final name
    try:
        store.download(file.name, fetched)
        found = sha256_file(fetched)
        if found != file.sha256:
            raise BadDataset(
                f"{store.uri}/{file.name} has sha256 {found}, its manifest says {file.sha256}: "
                "pack it again"
            )
        fetched.replace(path)
    except BadDataset:
        raise
    except BadInput as error:
        raise BadDataset(f"the index of {store.uri} cannot be read: {error}") from None
    finally:
        fetched.unlink(missing_ok=True)


def save_index(folder: Path, split: str, rows: np.ndarray) -> Path:
    """Write INDEX_ROW [N] as the index file of a split."""
    assert rows.dtype == INDEX_ROW, rows.dtype
    path = folder / f"index-{split}.npy"
    np.save(path, rows, allow_pickle=False)
    return path
