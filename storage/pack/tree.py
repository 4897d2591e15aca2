"""Recognise classes, splits and files of operating systems in a folder tree."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.errors import BadSource
from storage.pack.split_names import HELD_OUT, split_of

IMAGE_SUFFIXES = {
    ".jpg": "jpg", ".jpeg": "jpg", ".jpe": "jpg", ".jfif": "jpg", ".png": "png", ".webp": "webp",
    ".bmp": None, ".dib": None, ".gif": None, ".tif": None, ".tiff": None, ".avif": None,
    ".heic": None, ".heif": None, ".ppm": None, ".pgm": None, ".pbm": None, ".pnm": None,
}  # fmt: skip
"""Suffix of an image file -> its suffix in a tar; None for formats that become PNG."""
_SYSTEM_FOLDERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


def is_system(name: str) -> bool:
    """Whether a file or folder belongs to an operating system, a NAS or a tool."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS | _SYSTEM_FILES


def folders_of(top: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without those of operating systems."""
    return sorted(path.name for path in top.iterdir() if not is_system(path.name) and path.is_dir())


def has_images(top: Path) -> bool:
    """Whether a folder holds an image itself."""
    with os.scandir(top) as found:
        return any(
            not is_system(one.name) and Path(one.name).suffix.lower() in IMAGE_SUFFIXES
            for one in found
        )


def files_below(top: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Every file below a folder, without those of operating systems, which are counted."""
    for folder, folders, files in os.walk(top):
        kept = [name for name in folders if not is_system(name)]
        ignored.update(_kind(name) + "/" for name in folders if is_system(name))
        folders[:] = kept
        for name in files:
            if is_system(name):
                ignored[_kind(name)] += 1
            else:
                yield Path(folder) / name


def count_ignored(top: Path, ignored: Counter[str]) -> None:
    """Count what operating systems left in a folder itself."""
    for one in top.iterdir():
        if is_system(one.name):
            ignored[_kind(one.name) + ("/" if one.is_dir() else "")] += 1


def splits_of(root: Path) -> dict[str, str]:
    """train, val, test -> name of the folder that holds it; empty if the folders are classes.

    Folders are splits if their names say so and the one of train contains folders; otherwise they
    may be classes. A test folder without a val folder beside it is `val`.
    """
    named: dict[str, list[str]] = {}
    for name in folders_of(root):
        if split := split_of(name):
            named.setdefault(split, []).append(name)
    if not any(folders_of(root / name) for name in named.get("train", ())):
        return {}
    for split, several in named.items():
        if len(several) > 1:
            raise BadSource(f"{root} has {' and '.join(several)}: two folders of split {split!r}")
    found = {split: several[0] for split, several in named.items()}
    if "val" not in found and "test" in found:
        found["val"] = found.pop("test")
    return {split: found[split] for split in ("train", *HELD_OUT) if split in found}


def inner(top: Path) -> Path:
    """The folder itself, or a folder of the same name in it, as unpacking an archive may make."""
    nested = top / top.name
    alone = folders_of(top) == [top.name] and not has_images(top)
    return nested if alone and folders_of(nested) else top


def class_folders(top: Path, level: int | None) -> dict[str, list[Path]]:
    """Class name -> its folders, sorted: the folders `level` levels below. Raises BadSource.

    Without a level they are the folders directly below, each of which must contain an image.
    """
    found = [top]
    for _ in range(level or 1):
        found = [folder / name for folder in found for name in folders_of(folder)]
    if not found:
        here = f"{top} holds images and no class folders" if has_images(top) else None
        raise BadSource(
            f"{here}: sort them into {top}/CLASS/ first, or where they have no labels into one such"
            " folder; if a CSV has the labels, `pack.py csv` reads it"
            if here
            else f"{top} has no class folders: wanted {top}/CLASS/image.jpg"
        )
    if level is None:
        _require_images(top, found)
    classes: dict[str, list[Path]] = {}
    for folder in found:
        classes.setdefault(folder.name, []).append(folder)
    return dict(sorted(classes.items()))


def alike(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of class names that differ only in case or in how letters with accents are written."""
    seen: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for name in names:
        plain = unicodedata.normalize("NFC", name).casefold()
        if plain in seen:
            pairs.append((seen[plain], name))
        seen[plain] = name
    return pairs


def _require_images(top: Path, folders: list[Path]) -> None:
    """Raise BadSource for a class folder that holds folders and no image."""
    for folder in folders:
        names = folders_of(folder)
        if not names or has_images(folder):
            continue
        deeper = _likely_root(folder) if len(folders) == 1 else None
        raise BadSource(
            f"{folder} holds no image but folders ({', '.join(names[:3])}): "
            + (f"give --folder {deeper}, or " if deeper else "")
            + "say --class-level 1 if the classes are the folders of "
            f"{top}, 2 if they are those one below"
        )


def _likely_root(folder: Path) -> Path:
    """The first folder below that branches."""
    while len(names := folders_of(folder)) == 1 and not has_images(folder / names[0]):
        folder /= names[0]
    return folder


def _kind(name: str) -> str:
    if name.startswith("._"):
        return "._*"
    return name
