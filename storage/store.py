"""Protocols for a directory or a bucket; `storage.objects` opens one.

Two guarantees may surprise: a read that breaks off is resumed at the byte it reached, never
repeated from the front and never returned short; and a write is visible completely or not at all,
in a directory and in a bucket. Keys are relative to the URI that the store was opened at.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from storage.errors import NotWritable, ObjectExists, StorageError

_CONDITIONAL = "VIT_ON_RAY_CONDITIONAL_WRITES"
ONE_WRITER = f"set {_CONDITIONAL}=off and never run two drivers of one stage at once"
"""Advice for storage that cannot refuse a second writer."""


class Traffic:
    """Requests and bytes read through a store so far, by all threads of this process."""

    def __init__(self) -> None:
        self.requests = 0
        """Read requests to the server (or opened files), including repeated ones."""
        self.bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Traffic"], tuple[()]]:
        return Traffic, ()  # another process starts at 0

    def add(self, *, requests: int = 0, count: int = 0) -> None:
        """Add some requests, and `count` bytes."""
        with self._lock:
            self.requests += requests
            self.bytes += count


class RangeReader(Protocol):
    """A store as far as reading samples needs it."""

    @property
    def uri(self) -> str:
        """URI that this store was opened at."""
        ...

    @property
    def parallel_reads(self) -> int:
        """Number of ranges to read at once; 1 if there is no latency to hide."""
        ...

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Read exactly the bytes [start, stop). Raises ObjectNotFound, ObjectChanged,
        Unavailable."""
        ...


class ObjectStore(RangeReader, Protocol):
    """All operations that the rest of the project needs of a store."""

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes read so far."""
        ...

    def read(self, key: str) -> bytes:
        """Read a whole object, of one version. Raises ObjectNotFound, Unavailable."""
        ...

    def size(self, key: str) -> int:
        """Size of an object in bytes. Raises ObjectNotFound, Unavailable."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object with that key."""
        ...

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write atomically.

        With `if_absent` an object with other bytes under that key raises ObjectExists. The same
        bytes count as written: after a lost reply our own first attempt looks the same as another
        writer's, so a writer that must be unique puts something unique into `data`.
        """
        ...

    def upload(self, key: str, local_path: str | Path) -> None:
        """Copy a local file into the store, in parts if it is large."""
        ...

    def download(self, key: str, local_path: str | Path) -> None:
        """Copy an object to a local file, which appears completely or not at all.

        Raises ObjectNotFound, ObjectChanged (replaced meanwhile), Unavailable (also if the local
        disk is full).
        """
        ...

    def local(self, key: str, folder: Path) -> Path:
        """A local file with an object's bytes, for reading: the object or a copy in `folder`."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with `prefix`, in any order: not all servers sort by bytes."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""
        ...

    def sweep(self, folder: str = "") -> None:
        """Remove what killed writers left in a folder. Call it only if there is no other writer."""
        ...

    def check_writable(self) -> None:
        """Write, read and delete a probe, and check that a second writer is refused.

        Raises NotWritable within about ten seconds, with the reason and what to do.
        """
        ...


def conditional_writes() -> bool:
    """Whether stores must refuse the second of two writers, as they do unless switched off."""
    return os.environ.get(_CONDITIONAL, "").lower() not in ("off", "0", "false", "no")


def probe(store: ObjectStore, name: str) -> None:
    """Write one small object, read it back, try to replace it with `if_absent`, delete it.

    A commit is such a write: without it, a training would be lost at its last step.
    """
    first, second = (f"vit-on-ray write probe {name} {number}".encode() for number in (1, 2))
    store.write(name, first, if_absent=True)
    try:
        found = store.read(name)
        if found != first:
            raise NotWritable(
                f"{store.uri}: a probe was read with other bytes ({len(found)} of {len(first)})"
            )
        with suppress(ObjectExists):
            store.write(name, second, if_absent=True)
            raise NotWritable(
                f"{store.uri} lets a second writer replace an object: it ignores If-None-Match,"
                f" which protects results. Choose another storage root, or {ONE_WRITER}"
            )
    except StorageError:
        with suppress(StorageError):  # the first failure is the one to report
            store.delete(name)
        raise
    store.delete(name)
