"""A folder with one folder a class, as ImageNet is laid out; original bytes are stored, not
re-encoded.

`<folder>/<class>/image.jpg` is split by hash of its name; `<folder>/{train,val}/<class>/image.jpg`
keeps the split it has. Files that are no images, cannot be read or lead elsewhere are left out and
named.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from storage.decode import probe
from storage.errors import BadImage, BadSource
from storage.pack.source import LeftOut, Sample, check_splits, is_validation

_SUFFIXES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".webp": "webp"}


class Folder:
    """A class-per-folder tree of JPEG, PNG or WebP files."""

    def __init__(self, folder: str | Path, *, validation_fraction: float = 0.1) -> None:
        self._root = Path(folder)
        if not self._root.is_dir():
            raise BadSource(f"{folder} is not a folder")
        halves = [name for name in ("train", "val") if (self._root / name).is_dir()]
        if len(halves) == 1:
            raise BadSource(
                f"{folder} has {halves[0]}/ only: give it both train/ and val/, or neither"
            )
        self._classes = _class_names([self._root / half for half in halves] or [self._root])
        self._files: dict[str, list[tuple[int, str]]] = {"train": [], "val": []}
        if halves:
            for half in halves:
                self._files[half] = list(self._images(half))
        else:
            for label, name in self._images(""):
                half = "val" if is_validation(name, fraction=validation_fraction) else "train"
                self._files[half].append((label, name))
        check_splits(str(folder), self.splits)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class folders, sorted."""
        return self._classes

    @property
    def splits(self) -> Mapping[str, int]:
        """Files of train and val."""
        return {name: len(files) for name, files in self._files.items()}

    def read(self, split: str, i: int) -> Sample:
        """One file, its header checked."""
        label, name = self._files[split][i]
        path = self._root / name
        suffix = _SUFFIXES.get(path.suffix.lower())
        if suffix is None:
            raise LeftOut(name, "not a .jpg, .png or .webp")
        if path.is_symlink() and not path.resolve().is_relative_to(self._root.resolve()):
            raise LeftOut(name, "a link that leads out of the folder")
        try:
            data = path.read_bytes()
            probe(data)
        except OSError as error:
            raise LeftOut(name, f"cannot be read ({error.strerror})") from None
        except BadImage as error:
            raise LeftOut(name, str(error)) from None
        return Sample(key=_key(name), suffix=suffix, data=data, label=label)

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
    """A path as a WebDataset key: no dots, which would cut it; the writer sees to uniqueness."""
    return name.rpartition(".")[0].replace(".", "_").replace(" ", "_")
