"""ObjectStore on a local (or mounted) directory. A write is a temporary file, fsync, rename."""

import os
import shutil
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
from storage.store import Traffic, probe

_TEMPORARY = ".partial-"  # never listed: a killed writer leaves one behind


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
        """Exactly the bytes [start, stop)."""
        with self._explained(key), open(self._path(key), "rb") as file:
            file.seek(start)
            data = file.read(stop - start)
            self.traffic.add(requests=1, count=len(data))
        if len(data) != stop - start:
            raise ObjectChanged(
                f"{self._path(key)} ends at byte {start + len(data)}, bytes {start}..{stop} were "
                "wanted: "
                "it is shorter than its index says"
            )
        return data

    def size(self, key: str) -> int:
        """Bytes of a file."""
        with self._explained(key):
            return self._path(key).stat().st_size

    def exists(self, key: str) -> bool:
        """Whether there is a file of that name."""
        return self._path(key).is_file()

    def write(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write a temporary file, fsync it, rename it (or link it, where nothing may be
        replaced)."""
        path = self._path(key)
        with self._explained(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = _temporary_beside(path)
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if if_absent:
                    self._link_absent(temporary, path, data)
                else:
                    os.replace(temporary, path)
                _sync_folder(path.parent)
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()

    def upload(self, key: str, local_path: str | Path) -> None:
        """Copy a file in, atomically."""
        path = self._path(key)
        with self._explained(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            _copy_whole(Path(local_path), path)

    def download(self, key: str, local_path: str | Path) -> None:
        """Copy a file out, atomically."""
        with self._explained(key):
            _copy_whole(self._path(key), Path(local_path))

    def local(self, key: str, folder: Path) -> Path:
        """The file itself: a write replaces files, it never changes one."""
        if not self.exists(key):
            raise ObjectNotFound(f"no file {self._path(key)}")
        return self._path(key)

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with `prefix`, without unfinished writes."""
        top = self._path(prefix.rpartition("/")[0]) if "/" in prefix else self.root
        found: list[str] = []
        for folder, _, names in os.walk(top):
            for name in names:
                key = (Path(folder) / name).relative_to(self.root).as_posix()
                if key.startswith(prefix) and not name.startswith(_TEMPORARY):
                    found.append(key)
        yield from sorted(found, key=str.encode)

    def delete(self, key: str) -> None:
        """Remove a file; one that is not there is no error."""
        with self._explained(key), suppress(FileNotFoundError):
            self._path(key).unlink()

    def check_writable(self) -> None:
        """Write, read and delete a probe file."""
        try:
            probe(self, f".probe-{uuid.uuid4().hex}")
        except NotWritable:
            raise
        except StorageError as error:
            raise NotWritable(
                f"storage root {self.root} cannot be written: {error}. Make it writable or name "
                "another root"
            ) from error

    def _path(self, key: str) -> Path:
        path = self.root / key
        if key.startswith("/") or ".." in Path(key).parts:
            raise BadUri(f"key {key!r} leads out of {self.root}")
        return path

    def _explained(self, key: str) -> "_Explained":
        return _Explained(self._path(key))

    def _link_absent(self, temporary: Path, path: Path, data: bytes) -> None:
        try:
            os.link(temporary, path)  # fails if the name exists, atomically, also on NFS
        except FileExistsError:
            if path.read_bytes() != data:
                raise ObjectExists(f"{path} is already there with other bytes") from None


class _Explained:
    """Turn the file system's errors into ours, with the path."""

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


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")


def _copy_whole(source: Path, target: Path) -> None:
    temporary = _temporary_beside(target)
    try:
        shutil.copyfile(source, temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
