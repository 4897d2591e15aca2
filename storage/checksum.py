"""Checksums of files and of objects."""

import hashlib
from pathlib import Path

from storage.store import ObjectStore

_CHUNK_BYTES = 8 << 20


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_object(store: ObjectStore, key: str) -> str:
    """Hex sha256 of an object as it is in the store now, without a copy on this machine's disk.

    Raises ObjectNotFound, ObjectChanged, Unavailable.
    """
    digest, size = hashlib.sha256(), store.size(key)
    for start in range(0, size, _CHUNK_BYTES):
        digest.update(store.read_range(key, start, min(start + _CHUNK_BYTES, size)))
    return digest.hexdigest()
