"""An object of a store as a file that is read once, with the checksum of what was read."""

import io
from hashlib import sha256
from threading import Thread
from typing import TYPE_CHECKING

from storage.store import ObjectStore

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 8 << 20
"""What to give `io.BufferedReader` as its size."""


class ObjectStream(io.RawIOBase):
    """Reads an object from front to back; `io.BufferedReader` asks for the ranges.

    Each range is hashed in a thread of its own, while its members are looked at.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        self.size = store.size(name)
        self._hash = sha256()
        self._hashing: Thread | None = None
        self._store, self._name = store, name
        self._at = 0

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill the buffer, or as much of it as the rest of the object needs."""
        room = memoryview(buffer).cast("B")
        stop = min(self._at + len(room), self.size)
        if stop == self._at:
            return 0
        chunk = self._store.read_range(self._name, self._at, stop)
        self._wait()
        self._hashing = Thread(target=self._hash.update, args=(chunk,))  # without Python's lock
        self._hashing.start()
        room[: len(chunk)] = chunk
        self._at = stop
        return len(chunk)

    def sha256(self) -> str:
        """Hex sha256 of what was read."""
        self._wait()
        return self._hash.hexdigest()

    def _wait(self) -> None:
        """Wait until the last chunk is hashed."""
        if self._hashing is not None:
            self._hashing.join()
