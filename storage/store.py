"""What the project needs of a directory or a bucket, as Protocols; `storage.objects` opens one.

What is surprising: a read that breaks in mid-body is resumed at the byte it reached, never re-read
from the front and never handed on short; and a write is visible whole or not at all on either side.
Keys are relative to the place the store was opened at.
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
"""What to do where a place cannot refuse a second writer."""


class Traffic:
    """What was read through a store so far, by all threads of this process."""

    def __init__(self) -> None:
        self.requests = 0
        """Reads asked of the server (or opened files), repeated ones included."""
        self.bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Traffic"], tuple[()]]:
        return Traffic, ()  # another process begins at nothing

    def add(self, *, requests: int = 0, count: int = 0) -> None:
        """Count some requests, and `count` bytes."""
        with self._lock:
            self.requests += requests
            self.bytes += count


class RangeReader(Protocol):
    """What reading samples needs of a place."""

    @property
    def uri(self) -> str:
        """The place this store was opened at."""
        ...

    @property
    def parallel_reads(self) -> int:
        """How many ranges are worth reading at once: 1 where latency is nothing."""
        ...

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Exactly the bytes [start, stop). Raises ObjectNotFound, ObjectChanged, Unavailable."""
        ...


class ObjectStore(RangeReader, Protocol):
    """The verbs that the rest of the project needs of a place."""

    @property
    def traffic(self) -> Traffic:
        """What was read so far."""
        ...

    def read(self, key: str) -> bytes:
        """Whole object, of one version. Raises ObjectNotFound, Unavailable."""
        ...

    def size(self, key: str) -> int:
        """Bytes of an object. Raises ObjectNotFound, Unavailable."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""
        ...

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write atomically.

        With `if_absent` an object of other bytes under that key raises ObjectExists. The same bytes
        count as written: after a lost reply nobody can tell our first attempt from another writer,
        so a writer who must be unique puts something unique into `data`.
        """
        ...

    def upload(self, key: str, local_path: str | Path) -> None:
        """Copy a local file there, in parts where it is large."""
        ...

    def download(self, key: str, local_path: str | Path) -> None:
        """Copy an object to a local file, which appears whole or not at all.

        Raises ObjectNotFound, ObjectChanged (replaced meanwhile), Unavailable (also for a local
        disk that is full).
        """
        ...

    def local(self, key: str, folder: Path) -> Path:
        """A local file of an object's bytes, to read: the object itself, or a copy in `folder`."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with `prefix`, in no promised order: not all servers sort by bytes."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def sweep(self, folder: str = "") -> None:
        """Remove what killed writers left in a folder, where no other writer is left in it."""
        ...

    def check_writable(self) -> None:
        """Write, read and delete a probe, and see that a second writer is refused.

        Raises NotWritable within about ten seconds, with the reason and what mends it.
        """
        ...


def conditional_writes() -> bool:
    """Whether places refuse the second of two writers, as they do unless the user says no."""
    return os.environ.get(_CONDITIONAL, "").lower() not in ("off", "0", "false", "no")


def probe(store: ObjectStore, name: str) -> None:
    """Write one small object, read it back, try to replace it with `if_absent`, delete it.

    A commit is such a write: a place that cannot do it would lose a training at its last step.
    """
    first, second = (f"vit-on-ray write probe {name} {number}".encode() for number in (1, 2))
    store.write(name, first, if_absent=True)
    try:
        found = store.read(name)
        if found != first:
            raise NotWritable(
                f"{store.uri}: a probe came back with other bytes ({len(found)} of {len(first)})"
            )
        with suppress(ObjectExists):
            store.write(name, second, if_absent=True)
            raise NotWritable(
                f"{store.uri} lets a second writer replace an object: it ignores If-None-Match, by"
                f" which a result is written once. Name another storage root, or {ONE_WRITER}"
            )
    except StorageError:
        with suppress(StorageError):  # the first failure is the one to tell
            store.delete(name)
        raise
    store.delete(name)
