"""A bounded cache of shards on a local disk, for datasets in a bucket, shared by all processes.

    <folder>/vit-on-ray-shards/<sha256 of the shard>   its bytes, sparse, then one byte per block:
                                                       1 means that the block is here
                              /lock                    held by the process that makes room

The folder may hold other things: only files with such names in that subfolder are ever removed. A
file is named by its content, so it serves every dataset, epoch and stage that has that shard. A
block is written before its mark, by the process that fetched it; two writers write the same bytes.
Nothing is trusted: each sample is checked against the index when it is read, and a shard that fails
is dropped (`forget`) and fetched again. When the files exceed the limit, the least recently used
are removed. If the disk fails, reads still succeed: the process reads from the origin from then on.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from storage.dataset import Shard
from storage.errors import BadDataset, StorageError
from storage.local_files import write_all
from storage.store import ObjectStore, Traffic

FOLDER = "vit-on-ray-shards"
_log = logging.getLogger(__name__)
_SHARD = re.compile(r"[0-9a-f]{64}")
_BLOCK = 128 << 10  # about a photograph
_ROOM_SHARE = 0.9  # of the limit is left after making room
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Folder for shards, and the most bytes they may take (each process may add 1 % more)."""

    folder: str
    bytes: int


class CachedShards:
    """Reads ranges of a dataset's shards and keeps them on disk. Safe for threads and processes."""

    def __init__(self, origin: ObjectStore, shards: Mapping[str, Shard], cache: Cache) -> None:
        self._origin = origin
        self._shards = shards
        self._folder = _own_folder(cache.folder)
        self._limit = cache.bytes
        self._unseen = 0  # bytes written since the limit was last checked
        self._failed = False  # the disk failed: it is not used again
        self.parallel_reads = origin.parallel_reads

    @property
    def uri(self) -> str:
        """URI of the store that is cached."""
        return self._origin.uri

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes that were not in the cache and came from the origin."""
        return self._origin.traffic

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Read exactly the bytes [start, stop) of a shard."""
        shard = self._shards[key]
        if stop <= shard.bytes and not self._failed:  # of a wrong range the origin says why
            try:
                return self._read_range(shard, key, start, stop)
            except StorageError:
                raise  # the origin's
            except OSError as error:
                self._give_up(error)
        return self._origin.read_range(key, start, stop)

    def _read_range(self, shard: Shard, key: str, start: int, stop: int) -> bytes:
        with self._opened(shard) as file:
            first, last = start // _BLOCK, -(-stop // _BLOCK)
            marks = _read(file, last - first, shard.bytes + first)
            if b"\0" not in marks:
                return _read(file, stop - start, start)
            # One request, from the first missing block to the last.
            low, high = first + marks.index(b"\0"), first + marks.rindex(b"\0") + 1
            at, end = low * _BLOCK, min(high * _BLOCK, shard.bytes)
            fetched = self._origin.read_range(key, at, end)
            self._keep(file, fetched, at, shard.bytes + low, high - low)
            before = _read(file, max(0, at - start), start)
            after = _read(file, max(0, stop - end), end)
            return before + fetched[max(0, start - at) : stop - at] + after

    def _give_up(self, error: OSError) -> None:
        self._failed = True
        _log.warning(
            "the cache in %s failed (%s): this process reads its shards from %s from now on",
            self._folder,
            error.strerror or type(error).__name__,
            self._origin.uri,
        )

    def forget(self, key: str) -> None:
        """Remove a damaged shard from the cache."""
        try:
            (self._folder / self._shards[key].sha256).unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    @contextlib.contextmanager
    def _opened(self, shard: Shard) -> Generator[int]:
        """Open a shard's file. If it is removed meanwhile, it still serves this one read."""
        handle = os.open(self._folder / shard.sha256, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            size = shard.bytes + -(-shard.bytes // _BLOCK)
            if os.fstat(handle).st_size != size:
                os.ftruncate(handle, size)  # sparse: all marks are 0
            _touch(handle)
            yield handle
        finally:
            os.close(handle)

    def _keep(self, file: int, data: bytes, at: int, mark: int, blocks: int) -> None:
        try:
            write_all(file, data, at)
            write_all(file, b"\1" * blocks, mark)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._unseen = self._limit  # the disk is smaller than the limit: make room now
        _touch(file)
        self._unseen += len(data)
        if self._unseen * 100 > self._limit:
            self._unseen = 0
            self._make_room()

    def _make_room(self) -> None:
        """Remove the least recently used files until the rest is within the limit."""
        with _locked(self._folder / "lock") as mine:
            if not mine:
                return
            files = list(_shards_in(self._folder))
            held = sum(found.st_blocks * 512 for _, found in files)
            if held <= self._limit:
                return
            for path, found in sorted(files, key=lambda each: each[1].st_mtime_ns):
                if held > self._limit * _ROOM_SHARE:
                    path.unlink(missing_ok=True)
                    held -= found.st_blocks * 512


def _touch(handle: int) -> None:
    now = time.time_ns()  # finer than the kernel's own stamps
    os.utime(handle, ns=(now, now))


def _read(handle: int, count: int, at: int) -> bytes:
    """Read exactly `count` bytes. Raises OSError if another process has cut the file short."""
    data = os.pread(handle, count, at)
    if len(data) != count:
        raise OSError(errno.EIO, f"read only {len(data)} of {count} bytes")
    return data


def _shards_in(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files in the cache. Another process may remove one at any time."""
    for path in folder.iterdir():
        if _SHARD.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    yield path, found


@contextlib.contextmanager
def _locked(path: Path) -> Generator[bool]:
    """Try to take the lock; yields whether it was free. It is released when its process ends."""
    with open(path, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _own_folder(place: str) -> Path:
    """Make the cache's folder, accessible only to this user. Raises BadDataset."""
    folder = Path(place).expanduser() / FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable")
    except OSError as error:
        raise BadDataset(
            f"cache folder {place} cannot be used ({error.strerror}): set place.cache.folder to a"
            " folder of yours on a local disk, or to null"
        ) from None
    return folder
