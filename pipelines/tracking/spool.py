"""A queue on local disk and the thread that delivers it: whoever puts something in never waits.

The file is the queue: `put` appends a line of JSON, the thread sends what follows its last success
and empties the file when nothing is left. So memory stays bounded however long the receiver is
away, and what a process leaves behind the next one delivers. A chunk whose sending failed is sent
again as a whole: the receiver must take the same records twice as once.
"""

import fcntl
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipelines.recipes.errors import Mistake

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0  # between two tries
CLOSING_WAIT_SECONDS = 1.0
CHUNK_BYTES = 256 << 10  # a few requests' worth

Record = dict[str, Any]


class SpoolInUse(Mistake):
    """Another process writes this spool."""


class Spool:
    """Records on their way to a receiver that may be away, in order.

    Args:
        path: the file; what an earlier process left in it is delivered first.
        send: delivers records, oldest first; raises where it could not. Runs on the thread.

    Raises:
        SpoolInUse: another process holds the file.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, send: Callable[[list[Record]], None]) -> None:
        self.path, self._send = path, send
        self._file = _open_locked(path)
        self._changed = threading.Condition()
        self._size = _whole_lines(self._file)
        os.ftruncate(self._file, self._size)  # a line its writer was killed in
        self._sent = 0
        self.left = sum(chunk.count(b"\n") for chunk in self._chunks())
        """Records that are not delivered."""
        self.inherited = self.left
        """Of these, how many an earlier process left; 0 once they are delivered."""
        self.lost = self.left - sum(1 for _ in self.records())
        """Records that the disk did not take, or spoiled."""
        self.trouble: Exception | None = None
        """Why records wait; None once all are delivered."""
        self._closing = self._closed = False
        self._thread = threading.Thread(target=self._deliver, name="spool", daemon=True)

    def start(self) -> None:
        """Start to deliver."""
        self._thread.start()

    def records(self) -> Iterator[Record]:
        """What lies in the file, oldest first."""
        for chunk in self._chunks():
            yield from _parsed(chunk)

    def put(self, record: Record) -> None:
        """Append a record. A disk that takes no more loses it; `lost` counts."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._changed:
            if self._closed:
                self.lost += 1
                return
            try:
                _write_all(self._file, line)
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
        """Wait at most so long until everything is delivered; return how many records are not.

        They stay in the file. Nothing is sent any more, but for a call that is on its way.
        """
        with self._changed:
            if self._closed:
                return self.left
            self._closing = True
            self._changed.notify_all()
            if self._thread.is_alive():
                self._changed.wait_for(lambda: self._sent == self._size, wait_seconds)
            self._closed = True
            self._changed.notify_all()
            if not self._size:
                self.path.unlink(missing_ok=True)  # before the lock goes with the file
            os.close(self._file)
            return self.left

    def _deliver(self) -> None:
        wait = FIRST_WAIT_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._sent < self._size or self._closing)
                if self._closed or self._sent == self._size:
                    return
                chunk = self._read(self._sent)
            try:
                self._send(list(_parsed(chunk)))
            except Exception as error:  # the receiver's own kinds, whatever they are
                self.trouble = self.trouble or error
                self._pause(wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                continue
            wait = FIRST_WAIT_SECONDS
            if not self._delivered(chunk):
                return

    def _delivered(self, chunk: bytes) -> bool:
        """Go on behind the chunk; False if the spool was closed meanwhile."""
        with self._changed:
            if self._closed:  # the file is another's by now
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
            # Somebody waits at the end: try again soon.
            soon = min(end - time.monotonic(), CLOSING_WAIT_SECONDS)
            self._changed.wait_for(lambda: self._closed, max(soon, 0.0))

    def _chunks(self) -> Iterator[bytes]:
        offset = 0
        while chunk := self._read(offset):
            offset += len(chunk)
            yield chunk

    def _read(self, offset: int) -> bytes:
        """Whole lines from `offset` on: about `CHUNK_BYTES`, at least one if there is one."""
        length = CHUNK_BYTES
        while True:
            data = os.pread(self._file, min(length, self._size - offset), offset)
            end = data.rfind(b"\n") + 1
            if end or length >= self._size - offset:
                return data[:end]
            length *= 2


def spool_folder() -> Path:
    """Where spools lie: the user's state folder on this machine, else one under the temporary.

    Not with the results: those may be in a bucket that is unreachable at the same moment.

    Raises:
        OSError: no folder can be written.
    """
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    try:
        return _own_folder(Path(state) / "vit-on-ray" / "mlflow")
    except OSError:
        return _own_folder(Path(tempfile.gettempdir()) / f"vit-on-ray-{os.getuid()}" / "mlflow")


def is_held(path: Path) -> bool:
    """Whether a living process writes this spool."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:  # another user's: it cannot be known, so it must be believed
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return True
    finally:
        os.close(file)
    return False


def _own_folder(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} is not this user's to write")
    return folder


def _open_locked(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise SpoolInUse(f"{path} is written by another process") from None
        except OSError:  # a file system without locks
            return file
        if os.fstat(file).st_nlink:
            return file
        os.close(file)  # its owner removed it between the two calls


def _whole_lines(file: int) -> int:
    """Bytes up to the last line break."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - CHUNK_BYTES)
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _parsed(chunk: bytes) -> Iterator[Record]:
    for line in chunk.splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # a disk's doing: the other lines are as good as before
            continue
        if isinstance(record, dict):
            yield record
