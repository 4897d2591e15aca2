"""A queue in a local file, and a thread that delivers it, so that the producer never waits.

`put` appends a line of JSON. The thread sends what follows its last success, and empties the file
when nothing is left. So memory stays bounded however long the receiver is away, and the next
process delivers what this one could not. A chunk that failed is sent again as a whole: for the
receiver, getting a record twice must be the same as getting it once.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipelines.tracking.spool_file import open_locked, whole_lines, write_all

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0  # between two attempts
CLOSING_WAIT_SECONDS = 1.0
CHUNK_BYTES = 256 << 10  # enough for a few requests

Record = dict[str, Any]


class Spool:
    """An ordered queue of records for a receiver that may be unreachable.

    Args:
        path: the file; records that an earlier process left in it are delivered first.
        send: delivers records, oldest first; raises if it could not. Runs on the thread.

    Raises:
        SpoolInUse: another process holds the file.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, send: Callable[[list[Record]], None]) -> None:
        self.path, self._send = path, send
        self._file = open_locked(path)
        self._changed = threading.Condition()
        self._size = whole_lines(self._file)
        os.ftruncate(
            self._file, self._size
        )  # drops a line that is incomplete because its writer was killed
        self._sent = 0
        self.left = sum(chunk.count(b"\n") for chunk in self._chunks())
        """Records that are not delivered yet."""
        self.inherited = self.left
        """Records left by an earlier process; 0 once they are delivered."""
        self.lost = self.left - sum(1 for _ in self.records())
        """Records that could not be written to the disk or read back."""
        self.trouble: Exception | None = None
        """The error that delays delivery; None once all records are delivered."""
        self.died: BaseException | None = None
        """The error that ended the thread: nothing more is delivered."""
        self._closing = self._closed = False
        self._thread = threading.Thread(target=self._deliver, name="spool", daemon=True)

    def start(self) -> None:
        """Start the thread that delivers."""
        self._thread.start()

    def records(self) -> Iterator[Record]:
        """Yield the records in the file, oldest first."""
        for chunk in self._chunks():
            yield from _parsed(chunk)

    def put(self, record: Record) -> None:
        """Append a record. If the disk refuses it, it is lost and `lost` grows."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._changed:
            if self._closed:
                self.lost += 1
                return
            try:
                write_all(self._file, line)
            except OSError as error:
                os.ftruncate(self._file, self._size)  # half a line would spoil the next
                self.lost += 1
                self.trouble = self.trouble or error
                self._changed.notify_all()
                return
            self._size += len(line)
            self.left += 1
            self._changed.notify_all()

    def close(self, wait_seconds: float) -> int:
        """Wait at most `wait_seconds` for delivery; return how many records are undelivered.

        Those stay in the file. Nothing more is sent, except by a call that is in progress.
        """
        with self._changed:
            if self._closed:
                return self.left
            self._closing = True
            self._changed.notify_all()
            if self._thread.is_alive():
                self._changed.wait_for(
                    lambda: self._sent == self._size or self.died is not None, wait_seconds
                )
            self._closed = True
            self._changed.notify_all()
            if not self._size:
                self.path.unlink(missing_ok=True)  # before closing the file releases the lock
            os.close(self._file)
            return self.left

    def _deliver(self) -> None:
        try:
            self._deliver_all()
        except BaseException as error:  # a disk's, no memory, a fault of ours
            with self._changed:
                self.died = error
                self._changed.notify_all()

    def _deliver_all(self) -> None:
        wait = FIRST_WAIT_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._sent < self._size or self._closing)
                if self._closed or self._sent == self._size:
                    return
                chunk = self._read(self._sent)
            try:
                self._send(list(_parsed(chunk)))
            except Exception as error:  # the receiver may raise anything
                self.trouble = self.trouble or error
                self._pause(wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                continue
            wait = FIRST_WAIT_SECONDS
            if not self._delivered(chunk):
                return

    def _delivered(self, chunk: bytes) -> bool:
        """Advance past the chunk; return False if the spool was closed meanwhile."""
        with self._changed:
            if self._closed:  # another process may own the file by now
                return False
            self._sent += len(chunk)
            self.left -= chunk.count(b"\n")
            if self._sent == self._size:
                os.ftruncate(self._file, 0)
                self._sent = self._size = self.inherited = 0
                self.trouble = None
            self._changed.notify_all()
            return True

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)
            # `close` is waiting: try again soon.
            soon = min(end - time.monotonic(), CLOSING_WAIT_SECONDS)
            self._changed.wait_for(lambda: self._closed, max(soon, 0.0))

    def _chunks(self) -> Iterator[bytes]:
        offset = 0
        while chunk := self._read(offset):
            offset += len(chunk)
            yield chunk

    def _read(self, offset: int) -> bytes:
        """Read whole lines from `offset` on: about `CHUNK_BYTES`, at least one line if any."""
        length = CHUNK_BYTES
        while True:
            data = os.pread(self._file, min(length, self._size - offset), offset)
            end = data.rfind(b"\n") + 1
            if end or length >= self._size - offset:
                return data[:end]
            length *= 2


def _parsed(chunk: bytes) -> Iterator[Record]:
    for line in chunk.splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # damaged on disk: the other lines are still good
            continue
        if isinstance(record, dict):
            yield record
