"""Write a folder completely or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.recipes.errors import Mistake
from storage.errors import Unavailable
from storage.local_files import temporary_beside


def check_target(out: Path) -> None:
    """Raise Mistake unless `out` can become a new folder: absent, or an empty folder."""
    if "://" in str(out) or ":/" in str(out):
        raise Mistake(f"--out {out}: wanted a folder on this machine; copy it from there")
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        kind = "a folder with files in it" if out.is_dir() else "a file"
        raise Mistake(f"--out {out} is {kind}: give a new or an empty folder")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `out` when the block ends well.

    Raises:
        Mistake: `out` is there already and not empty.
        Unavailable: the disk is full or cannot be written.
    """
    check_target(out)
    temporary = temporary_beside(out.absolute())
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, out)  # also over an empty folder
    except OSError as error:
        raise Unavailable(f"--out {out}: {error.strerror or type(error).__name__}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
