"""Local files that appear completely or not at all, and writes that are never partial."""

import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from storage.errors import StorageError, Unavailable

TEMPORARY = ".partial-"
"""Prefix of the names of unfinished files. A killed writer leaves one behind."""


def temporary_beside(path: Path) -> Path:
    """A name in the same folder for a file that is not finished."""
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")


def write_all(handle: int, data: bytes, at: int) -> None:
    """Write all of `data` at an offset.

    If the disk fills up, `os.pwrite` writes what fits and returns that number; only the next write
    raises ENOSPC.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, at)
        view, at = view[written:], at + written


@contextmanager
def arriving(target: Path, size: int) -> Generator[BinaryIO]:
    """Open a file to fill with `size` bytes; it gets its final name when the block ends.

    Raises:
        Unavailable: this machine's disk is full or fails, or holds fewer bytes than were written.
    """
    temporary = temporary_beside(target)
    try:
        with open(temporary, "wb") as file:
            yield file
        found = temporary.stat().st_size
        if found != size:
            raise Unavailable(f"{target}: this machine's disk has only {found} of {size} bytes")
        temporary.replace(target)
    except StorageError:
        raise
    except OSError as error:
        raise Unavailable(
            f"{target}: this machine's disk failed: {error.strerror or type(error).__name__}. Free"
            " some space there, or set TMPDIR to another disk"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder, so that the names in it survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
