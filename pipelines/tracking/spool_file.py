"""The file of a spool: one folder of the user's own, one process at a time, whole lines only."""

import fcntl
import os
import tempfile
from pathlib import Path

from pipelines.recipes.errors import Mistake

READ_BYTES = 256 << 10


class SpoolInUse(Mistake):
    """Another process writes this spool."""


def spool_folder() -> Path:
    """Return the folder of the spools: in the user's state folder, else in the temporary folder.

    It is not the storage root, which may be a bucket that is unreachable at the same moment.

    Raises:
        OSError: no folder can be written.
    """
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    try:
        return _own_folder(Path(state) / "vit-on-ray" / "mlflow")
    except OSError:
        return _own_folder(Path(tempfile.gettempdir()) / f"vit-on-ray-{os.getuid()}" / "mlflow")


def is_held(path: Path) -> bool:
    """Return whether a living process writes this spool."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:  # another user's file: assume that it is held
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
        raise PermissionError(f"{folder} belongs to another user or cannot be written")
    return folder


def open_locked(path: Path) -> int:
    """Open a spool's file for this process alone; return its descriptor.

    Raises:
        SpoolInUse: another process holds it.
        OSError: it cannot be written.
    """
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


def whole_lines(file: int) -> int:
    """Return the number of bytes up to the last line break."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - READ_BYTES)
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def write_all(file: int, data: bytes) -> None:
    """Append all bytes. Raises OSError, after which half a line may be there."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
