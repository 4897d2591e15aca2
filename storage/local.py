"""ObjectStore in a local (or mounted) directory. A write is a temporary file, fsync, rename."""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from storage.errors import (
    BadUri,
    NotWritable,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    Unavailable,
)
from storage.local_files import TEMPORARY, arriving, sync_folder, temporary_beside
from storage.store import ONE_WRITER, Traffic, conditional_writes, probe

_COPY_BYTES = 8 << 20
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LocalStore:
    """Objects are files below `root`."""

    parallel_reads = 1

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.traffic = Traffic()

    @property
    def uri(self) -> str:
        """The directory, as a path."""
        return str(self.root)

    def read(self, key: str) -> bytes:
        """Whole file."""
        with self._explained(key):
            return self._path(key).read_bytes()

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        """Read exactly the bytes [start, stop)."""
        with self._explained(key), open(self._path(key), "rb") as file:
            file.seek(start)
            data = file.read(stop - start)
            self.traffic.add(requests=1, count=len(data))
        if len(data) != stop - start:
            raise ObjectChanged(
                f"{self._path(key)} ends at byte {start + len(data)}, wanted bytes {start}..{stop}:"
                " it is shorter than its index says"
            )
        return data

    def size(self, key: str) -> int:
        """Size of a file in bytes."""
        with self._explained(key):
            return self._path(key).stat().st_size

    def exists(self, key: str) -> bool:
        """Whether there is a file of that name. Raises Unavailable if this cannot be found out."""
        try:
            with self._explained(key):
                return stat.S_ISREG(self._path(key).stat().st_mode)
        except ObjectNotFound:
            return False

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write a temporary file, fsync it, and rename it (with `if_absent`: link it)."""
        path = self._path(key)
        with self._explained(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_beside(path)
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if if_absent:
                    self._name_absent(temporary, path, data)
                else:
                    os.replace(temporary, path)
                sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def upload(self, key: str, local_path: str | Path) -> None:
        """Copy a file in, atomically."""
        path = self._path(key)
        with self._explained(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_beside(path)
            try:
                shutil.copyfile(local_path, temporary)
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
                sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def download(self, key: str, local_path: str | Path) -> None:
        """Copy a file out, atomically."""
        size = self.size(key)
        with arriving(Path(local_path), size) as target:
            for start in range(0, size, _COPY_BYTES):
                target.write(self.read_range(key, start, min(start + _COPY_BYTES, size)))

    def local(self, key: str, folder: Path) -> Path:
        """The file itself, which stays as it is: a write replaces a file and never changes it."""
        if not self.exists(key):
            raise ObjectNotFound(f"no file {self._path(key)}")
        return self._path(key)

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with `prefix`, without unfinished writes."""
        top = self._path(prefix.rpartition("/")[0]) if "/" in prefix else self.root
        found: list[str] = []
        with self._explained(prefix):
            for folder, _, names in os.walk(top, onerror=_raise_unless_missing):
                for name in names:
                    key = (Path(folder) / name).relative_to(self.root).as_posix()
                    if key.startswith(prefix) and not name.startswith(TEMPORARY):
                        found.append(key)
        yield from sorted(found, key=os.fsencode)  # a name may be no UTF-8

    def delete(self, key: str) -> None:
        """Remove a file if it exists."""
        with self._explained(key), suppress(FileNotFoundError):
            self._path(key).unlink()

    def sweep(self, folder: str = "") -> None:
        """Remove unfinished writes and empty folders. Call it only if there is no other writer."""
        top = self._path(folder)
        with self._explained(folder):
            for place, _, names in os.walk(top, topdown=False, onerror=_raise_unless_missing):
                for name in names:
                    if name.startswith(TEMPORARY):
                        (Path(place) / name).unlink(missing_ok=True)
                if Path(place) != self.root:
                    _remove_if_empty(Path(place))

    def check_writable(self) -> None:
        """Write, read and delete a probe file, and check that a second writer is refused."""
        try:
            probe(self, f".probe-{uuid.uuid4().hex}")
        except NotWritable:
            raise
        except StorageError as error:
            raise NotWritable(
                f"storage root {self.root} cannot be written: {error}. Make it writable or choose"
                " another one"
            ) from error

    def _path(self, key: str) -> Path:
        path = self.root / key
        if key.startswith("/") or ".." in Path(key).parts or "\x00" in key:
            raise BadUri(f"key {key!r} is outside of {self.root}")
        return path

    def _explained(self, key: str) -> "_Explained":
        return _Explained(self._path(key))

    def _name_absent(self, temporary: Path, path: Path, data: bytes) -> None:
        """Give a written file its name, unless another file has it."""
        try:
            if conditional_writes():
                os.link(temporary, path)  # fails if the name exists, atomically, also on NFS
            elif path.exists():
                raise FileExistsError
            else:
                os.replace(temporary, path)
        except FileExistsError:
            if path.read_bytes() != data:
                raise ObjectExists(f"{path} already exists with other bytes") from None
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            raise Unavailable(
                f"{path}: the file system has no hard links ({error.strerror}), which protect a"
                f" result from a second writer. Choose another storage root, or {ONE_WRITER}"
            ) from error


class _Explained:
    """Translate errors of the file system into this package's errors, with the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, StorageError):
            return
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise ObjectNotFound(f"no file {self.path}") from error
        raise Unavailable(f"{self.path}: {error.strerror or type(error).__name__}") from error


def _raise_unless_missing(error: OSError) -> None:
    """Error handler for `os.walk`, which ignores errors by default: a directory that cannot be read
    would look like an empty one."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
