"""Local files of indexes: each is fetched once and checked once per machine.

Passed checks are recorded as empty files in a folder of this machine and user. Their names contain
content, path, size and time of change, so that a file that was replaced is checked again.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.checksum import sha256_file, sha256_object
from storage.dataset import IndexFile
from storage.errors import BadDataset, BadInput, ObjectNotFound, Unavailable
from storage.local import LocalStore
from storage.store import ObjectStore


def local_index(store: ObjectStore, file: IndexFile) -> Path:
    """A local file with the promised bytes: the index itself, or a copy if it is in a bucket.

    Raises BadDataset, Unavailable.
    """
    if not isinstance(store, LocalStore):
        return _copied(store, file)
    path = store.root / file.name
    try:
        found = store.size(file.name)
    except ObjectNotFound:
        raise BadDataset(f"{path} is missing, but its manifest is there: pack it again") from None
    if found != file.bytes:
        raise BadDataset(f"{path} has {found} bytes, its manifest says {file.bytes}: pack it again")
    check_once(path, file.sha256, lambda: _check_sha256(path, file))
    return path


def _check_sha256(path: Path, file: IndexFile) -> None:
    found = sha256_file(path)
    if found != file.sha256:
        raise BadDataset(
            f"{path} has sha256 {found}, its manifest says {file.sha256}: it was changed or is"
            " damaged. Pack it again"
        )


def _copied(store: ObjectStore, file: IndexFile) -> Path:
    path = private_folder() / f"{file.sha256}.npy"
    # One process per machine fetches it: 300 million samples are 9.6 GB, and all decoding processes
    # ask at once.
    with _locked(path.with_suffix(".lock")):
        if not (path.is_file() and path.stat().st_size == file.bytes):
            _fetch(store, file, path)
    return path


def _fetch(store: ObjectStore, file: IndexFile, path: Path) -> None:
    fetched = path.with_name(f"{file.sha256}-{os.getpid()}")  # checked before its final name
    where = f"{store.uri}/{file.name}"
    try:
        store.download(file.name, fetched)
        found = sha256_file(fetched)
        if found != file.sha256:
            if sha256_object(store, file.name) == file.sha256:
                raise Unavailable(
                    f"{where} is intact, but its copy {fetched} on this machine is not"
                )
            raise BadDataset(
                f"{where} has sha256 {found}, its manifest says {file.sha256}: pack it again"
            )
        fetched.replace(path)
    except BadDataset:
        raise
    except BadInput as error:
        raise BadDataset(f"the index of {store.uri} cannot be read: {error}") from None
    finally:
        fetched.unlink(missing_ok=True)


def check_once(path: Path, content: str, check: Callable[[], None]) -> None:
    """Call `check`, unless it passed on this machine since the file was last changed.

    Args:
        path: the file.
        content: hex text that identifies the promised content.
        check: raises if the file does not have it.
    """
    found = path.stat()
    facts = (content, str(path), found.st_size, found.st_mtime_ns, found.st_ino)
    name = hashlib.sha256(repr(facts).encode()).hexdigest()
    passed = private_folder() / f"{name}.checked"
    with _locked(private_folder() / f"{content}.lock"):  # all decoding processes begin at once
        if passed.exists():
            return
        check()
        with suppress(OSError):  # without the record it is only checked again
            passed.touch()


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Hold a lock on this machine, which is released when its process ends. Raises Unavailable."""
    try:
        file = path.open("wb")
    except OSError as error:
        raise _unusable(path, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def private_folder() -> Path:
    """This machine's folder of mapped files, only for this user. Raises BadDataset, Unavailable."""
    folder = Path(tempfile.gettempdir()) / f"vit-on-ray-index-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise _unusable(folder, error) from error
    if folder.is_symlink() or owner != os.getuid():
        raise BadDataset(
            f"{folder} belongs to another user: remove it, or set TMPDIR to another folder"
        )
    return folder


def _unusable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(
        f"{path}: this machine's disk failed: {error.strerror or type(error).__name__}. Free some"
        " space there, or set TMPDIR to another disk"
    )
