"""Image files below a folder become samples; their labels come from folders or from a table.

Formats that the stream does not read become PNG. Files that are not images, cannot be read or link
out of the folder are left out and named.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from storage.errors import BadImage
from storage.index import name_hash
from storage.pack.listing import Listing
from storage.pack.source import LeftOut, Sample, Source, gone, is_validation
from storage.pack.stored import Rule
from storage.pack.tree import IMAGE_SUFFIXES, alike
from storage.resized import Resized

VALIDATION_FRACTION = 0.1
_UNREADABLE = -1  # instead of the size of a file whose size cannot be read


class ImageFiles(Source):
    """Files of known labels. A subclass fills `_classes`, `_files` and `_notes`."""

    def __init__(self, root: Path, rule: Rule) -> None:
        self._root = root
        self._rule = rule
        self._classes: tuple[str, ...] = ()
        self._files: dict[str, Listing] = {}
        self._shared_keys: dict[str, frozenset[int]] = {}
        self._notes: dict[str, int] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return self._classes

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of files in train, val and, if it exists beside val, test."""
        return {name: len(files) for name, files in self._files.items()}

    @property
    def notes(self) -> Mapping[str, int]:
        """What was ignored, and how the files were interpreted."""
        return self._notes

    @property
    def resized(self) -> Resized | None:
        """How large images are made smaller, by the rule."""
        return self._rule.resized

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder."""
        return (self._root,)

    def identity(self) -> str:
        """Hash of names, labels, sizes and times of change."""
        parts = [files.identity() for files in self._files.values()]
        return "/".join([*parts, self._rule.identity()]).rstrip("/")

    def read(self, split: str, i: int) -> Sample:
        """One file, its header checked."""
        name = self._files[split].name(i)
        label, size, _ = self._files[split].about(i)
        path = self._root / name
        if not _is_utf8(name):
            raise LeftOut(ascii(name), "its name is not UTF-8")
        if size == _UNREADABLE and not os.path.lexists(path):
            raise LeftOut(name, "there is no such file")
        known = path.suffix.lower()
        if known not in IMAGE_SUFFIXES:
            raise LeftOut(
                name, "not the name of an image file (.jpg, .png, .webp, .bmp, .tif, ...)"
            )
        if path.is_symlink() and not path.resolve().is_relative_to(self._root.resolve()):
            raise LeftOut(name, "a link that leads out of the folder")
        try:
            stored = self._rule(path.read_bytes())
        except FileNotFoundError:
            if size != _UNREADABLE:
                raise gone(path) from None
            raise LeftOut(name, "a link to a missing file") from None
        except OSError as error:
            raise LeftOut(name, f"cannot be read ({error.strerror})") from None
        except BadImage as error:
            raise LeftOut(name, str(error)) from None
        key = _key(name)
        if name_hash(key) in self._shared_keys[split]:
            key = f"{key}-{name_hash(name):016x}"
        # a PNG that is called .jpg is stored as .jpg, so that the digests of datasets do not change
        suffix = stored.suffix if stored.notes else IMAGE_SUFFIXES[known] or stored.suffix
        return Sample(key=key, suffix=suffix, data=stored.data, label=label, notes=stored.notes)

    def _note_classes(self) -> None:
        for one, other in alike(self._classes)[:5]:
            self._notes[f"classes {one!r} and {other!r} differ in case or accents only"] = 1
        if len(self._classes) == 1:
            self._notes[f"only one class ({self._classes[0]!r}): there is nothing to classify"] = 1

    def _take(self, files: Mapping[str, Iterable[tuple[int, str]]]) -> None:
        """List the files of each split, given as (label, path below the root)."""
        self._files = {split: self._listing(found) for split, found in files.items()}
        self._shared_keys = {split: _shared_keys(found) for split, found in self._files.items()}

    def _listing(self, files: Iterable[tuple[int, str]]) -> Listing:
        """Columns: label, bytes, time of change in nanoseconds."""
        pairs = ((name, (label, *_size_and_time(self._root / name))) for label, name in files)
        return Listing.of(pairs, columns=3)


def hold_out(
    files: Iterable[tuple[int, str]], fraction: float | None
) -> dict[str, list[tuple[int, str]]]:
    """Split (label, path) into train and val, by a hash of the path."""
    found: dict[str, list[tuple[int, str]]] = {"train": [], "val": []}
    fraction = VALIDATION_FRACTION if fraction is None else fraction
    for label, name in files:
        text = name.encode("utf-8", "replace").decode()
        found["val" if is_validation(text, fraction=fraction) else "train"].append((label, name))
    return found


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return _UNREADABLE, 0
    return found.st_size, found.st_mtime_ns


def _is_utf8(name: str) -> bool:
    return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)


def _key(name: str) -> str:
    """Turn a path into a WebDataset key: without dots, which would end the key."""
    return name.rpartition(".")[0].replace(".", "_").replace(" ", "_")


def _shared_keys(files: Listing) -> frozenset[int]:
    """Hashes of the keys that several files would share: a.jpg beside a.png."""
    hashes = (name_hash(_key(name)) for name in files if _is_utf8(name))
    keys, counts = np.unique(np.fromiter(hashes, np.uint64), return_counts=True)
    return frozenset(keys[counts > 1].tolist())
