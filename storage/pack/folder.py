"""A folder with one folder a class, as ImageNet is laid out; original bytes are stored, not
re-encoded.

`<folder>/<class>/image.jpg` is split by hash of its name; `<folder>/{train,val}/<class>/image.jpg`
keeps the split it has. Files that are no images, cannot be read or lead elsewhere are left out and
named.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from storage.decode import probe
from storage.errors import BadImage, BadSource
from storage.index import name_hash
from storage.pack.listing import Listing
from storage.pack.source import LeftOut, Sample, Source, check_splits, gone, is_validation

_SUFFIXES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}
_UNREADABLE = -1  # instead of the size of a file that could not be asked for it


class Folder(Source):
    """A class-per-folder tree of JPEG, PNG or WebP files."""

    def __init__(self, folder: str | Path, *, validation_fraction: float = 0.1) -> None:
        self._root = Path(folder).absolute()
        if not self._root.is_dir():
            raise BadSource(f"{folder} is not a folder")
        halves = [name for name in ("train", "val") if (self._root / name).is_dir()]
        if len(halves) == 1:
            raise BadSource(
                f"{folder} has {halves[0]}/ only: give it both train/ and val/, or neither"
            )
        self._classes = _class_names([self._root / half for half in halves] or [self._root])
        self._files: dict[str, Listing] = {}
        if halves:
            for half in halves:
                self._files[half] = self._listing(self._images(half))
        else:
            held: dict[bool, list[tuple[int, str]]] = {False: [], True: []}
            for label, name in self._images(""):
                held[_is_held(name, validation_fraction)].append((label, name))
            self._files = {"train": self._listing(held[False]), "val": self._listing(held[True])}
        self._shared_keys = {split: _shared_keys(files) for split, files in self._files.items()}
        check_splits(str(folder), self.splits)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class folders, sorted."""
        return self._classes

    @property
    def splits(self) -> Mapping[str, int]:
        """Files of train and val."""
        return {name: len(files) for name, files in self._files.items()}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder."""
        return (self._root,)

    def identity(self) -> str:
        """Hash of names, sizes and times of change."""
        return "/".join(files.identity() for files in self._files.values())

    def read(self, split: str, i: int) -> Sample:
        """One file, its header checked."""
        name = self._files[split].name(i)
        label, size, _ = self._files[split].about(i)
        path = self._root / name
        if not _is_utf8(name):
            raise LeftOut(ascii(name), "its name is not UTF-8")
        suffix = _SUFFIXES.get(path.suffix.lower())
        if suffix is None:
            raise LeftOut(name, "not a .jpg, .png or .webp")
        if path.is_symlink() and not path.resolve().is_relative_to(self._root.resolve()):
            raise LeftOut(name, "a link that leads out of the folder")
        try:
            data = path.read_bytes()
            probe(data)
        except FileNotFoundError:
            if size != _UNREADABLE:
                raise gone(path) from None
            raise LeftOut(name, "a link that leads nowhere") from None
        except OSError as error:
            raise LeftOut(name, f"cannot be read ({error.strerror})") from None
        except BadImage as error:
            raise LeftOut(name, str(error)) from None
        key = _key(name)
        if name_hash(key) in self._shared_keys[split]:
            key = f"{key}-{name_hash(name):016x}"
        return Sample(key=key, suffix=suffix, data=data, label=label)

    def _images(self, half: str) -> Iterator[tuple[int, str]]:
        """(label, path below the root) of every file of every class, sorted."""
        for label, name in enumerate(self._classes):
            top = self._root / half / name
            found = [
                (Path(folder) / file).relative_to(self._root).as_posix()
                for folder, _, files in os.walk(top)
                for file in files
                if not file.startswith(".")
            ]
            yield from ((label, path) for path in sorted(found))

    def _listing(self, files: Iterable[tuple[int, str]]) -> Listing:
        """Columns: label, bytes, time of change in nanoseconds."""
        pairs = ((name, (label, *_size_and_time(self._root / name))) for label, name in files)
        return Listing.of(pairs, columns=3)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return _UNREADABLE, 0
    return found.st_size, found.st_mtime_ns


def _is_held(name: str, fraction: float) -> bool:
    return is_validation(name.encode("utf-8", "replace").decode(), fraction=fraction)


def _is_utf8(name: str) -> bool:
    return not any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)


def _class_names(tops: list[Path]) -> tuple[str, ...]:
    each = [
        sorted(path.name for path in top.iterdir() if path.is_dir() and path.name[0] != ".")
        for top in tops
    ]
    for top, names in zip(tops, each, strict=True):
        if not names:
            raise BadSource(f"{top} has no class folders: wanted {top}/CLASS/image.jpg")
        if names != each[0]:
            odd = sorted(set(names) ^ set(each[0]))
            raise BadSource(f"{tops[0]} and {top} differ in their classes: {', '.join(odd[:5])}")
    return tuple(each[0])


def _key(name: str) -> str:
    """A path as a WebDataset key: no dots, which would cut it."""
    return name.rpartition(".")[0].replace(".", "_").replace(" ", "_")


def _shared_keys(files: Listing) -> frozenset[int]:
    """Hashes of the keys that several files would have: a.jpg beside a.png."""
    hashes = (name_hash(_key(name)) for name in files if _is_utf8(name))
    keys, counts = np.unique(np.fromiter(hashes, np.uint64), return_counts=True)
    return frozenset(keys[counts > 1].tolist())
