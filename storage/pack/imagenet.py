"""ImageNet (ILSVRC 2012) from the official tars, without unpacking them.

    ILSVRC2012_img_train.tar    a tar of 1,000 tars, n01440764.tar ..., one a class
    ILSVRC2012_img_val.tar      50,000 flat files
    labels of val               one class (n01440764) a line in the order of the file names, or
    Kaggle's
                                LOC_val_solution.csv

Classes are numbered in the order of their WordNet ids, as everywhere but in the official devkit.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from storage.decode import probe
from storage.errors import BadImage, BadSource
from storage.pack.source import LeftOut, Sample, check_splits
from storage.tar import BLOCK, Entry, entries

_CLASS = re.compile(r"n\d{8}")
_SUFFIX = {b"\xff\xd8": "jpg", b"\x89P": "png"}  # one file named .JPEG is a PNG


@dataclass(frozen=True)
class _Place:
    name: str
    offset: int
    size: int
    label: int


class ImageNet:
    """The two official tars and a file with the labels of the second."""

    def __init__(self, train_tar: str | Path, val_tar: str | Path, val_labels: str | Path) -> None:
        self._tars = {"train": Path(train_tar), "val": Path(val_tar)}
        for path in (*self._tars.values(), Path(val_labels)):
            if not path.is_file():
                raise BadSource(f"{path} is not there")
        self._handles = {split: os.open(path, os.O_RDONLY) for split, path in self._tars.items()}
        outer = sorted(_regular(self._entries("train")), key=lambda entry: entry.name)
        self._classes = tuple(entry.name.removesuffix(".tar") for entry in outer)
        odd = [name for name in self._classes if not _CLASS.fullmatch(name)]
        if odd or not outer:
            raise BadSource(
                f"{train_tar} holds no tar of a class named as n01440764.tar"
                + (f" but {odd[0]!r}" if odd else "")
            )
        self._places = {
            "train": [
                place for label, entry in enumerate(outer) for place in self._inner(entry, label)
            ],
            "val": self._validation(Path(val_labels)),
        }
        check_splits(str(train_tar), self.splits)

    @property
    def classes(self) -> tuple[str, ...]:
        """WordNet ids, sorted."""
        return self._classes

    @property
    def splits(self) -> Mapping[str, int]:
        """Images of train and val."""
        return {split: len(places) for split, places in self._places.items()}

    def read(self, split: str, i: int) -> Sample:
        """One image, its header checked."""
        place = self._places[split][i]
        data = os.pread(self._handles[split], place.size, place.offset)
        try:
            if len(data) != place.size:
                raise BadImage(f"{len(data)} of {place.size} bytes: the tar is torn")
            probe(data)
        except BadImage as error:
            raise LeftOut(place.name, str(error)) from None
        suffix = _SUFFIX.get(data[:2])
        if suffix is None:
            raise LeftOut(place.name, "neither JPEG nor PNG")
        key = place.name.rpartition(".")[0].replace(".", "_")
        return Sample(key=key, suffix=suffix, data=data, label=place.label)

    def _entries(self, split: str, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
        handle, path = self._handles[split], self._tars[split]
        end = os.fstat(handle).st_size if stop is None else stop

        def read_at(offset: int) -> bytes:
            return os.pread(handle, min(BLOCK, end - offset), offset) if offset < end else b""

        try:
            yield from entries(read_at, start)
        except BadSource as error:
            raise BadSource(f"{path}: {error}") from None

    def _inner(self, outer: Entry, label: int) -> Iterator[_Place]:
        """The images of one class, in the tar inside the tar."""
        stop = outer.offset + outer.size
        for entry in _regular(self._entries("train", outer.offset, stop)):
            yield _Place(f"{self._classes[label]}/{entry.name}", entry.offset, entry.size, label)

    def _validation(self, labels: Path) -> list[_Place]:
        files = sorted(_regular(self._entries("val")), key=lambda entry: entry.name)
        by_name = _read_labels(labels, [entry.name for entry in files])
        number = {name: label for label, name in enumerate(self._classes)}
        unknown = sorted({name for name in by_name.values() if name not in number})
        if unknown:
            raise BadSource(f"{labels} names classes that train has not: {', '.join(unknown[:5])}")
        missing = [entry.name for entry in files if entry.name not in by_name]
        if missing:
            raise BadSource(f"{labels} has no label for {len(missing)} files, such as {missing[0]}")
        return [_Place(e.name, e.offset, e.size, number[by_name[e.name]]) for e in files]


def _regular(found: Iterator[Entry]) -> Iterator[Entry]:
    return (entry for entry in found if entry.refused is None)


def _read_labels(path: Path, names: list[str]) -> dict[str, str]:
    """File name -> class."""
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if lines and lines[0].startswith("ImageId,"):
        pairs = (line.partition(",") for line in lines[1:])
        return {f"{name}.JPEG": rest.split()[0] for name, _, rest in pairs if rest.split()}
    if len(lines) != len(names):
        raise BadSource(f"{path} has {len(lines)} labels, the tar {len(names)} files")
    return dict(zip(names, lines, strict=True))
