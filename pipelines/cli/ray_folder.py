"""Choose the folder of a local Ray: writable, and short enough for the sockets in it.

Ray uses RAY_TMPDIR or TMPDIR. SLURM, CI systems and pytest set folders too long for the name of a
Unix socket (107 bytes), and containers some that cannot be written.
"""

import os
import sys
import tempfile
from pathlib import Path

from cluster.errors import BadPlace

SOCKET_BYTES = 107
# Below the folder: session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store
_BELOW = len("/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store")
_OWN = "vit-on-ray-"
LONGEST_BYTES = SOCKET_BYTES - _BELOW


def ray_folder(*, quiet: bool = False) -> str:
    """Return the folder Ray would use, or if that fails a short one of this user under /tmp.

    Prints a note in the second case, unless `quiet`.

    Raises:
        BadPlace: neither folder can be used.
    """
    wanted = ray_folder_of_environment()
    why = trouble(wanted)
    if why is None:
        return str(wanted)
    other = Path("/tmp") / f"{_OWN}{os.getuid()}" / "ray"  # noqa: S108
    if trouble(other) is not None:
        raise BadPlace(
            f"{why}; {trouble(other)} - set RAY_TMPDIR to a writable folder of at most"
            f" {LONGEST_BYTES - len('/ray')} characters"
        )
    if not quiet:
        print(f"note: {why}; Ray's files go to {other}", file=sys.stderr, flush=True)
    return str(other)


def ray_folder_of_environment() -> Path:
    """Return the folder that Ray takes from the environment."""
    base = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
    return Path(base).absolute() / "ray"


def trouble(folder: Path) -> str | None:
    """Return why Ray cannot use a folder; None if it can."""
    if len(os.fsencode(folder)) > LONGEST_BYTES:
        return f"{folder} is too long for Ray's sockets ({SOCKET_BYTES} bytes with their names)"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.parent.name.startswith(_OWN) and folder.parent.stat().st_uid != os.getuid():
            return f"{folder.parent} belongs to another user"
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return None
