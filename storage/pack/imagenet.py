"""ImageNet (ILSVRC 2012) from the official tars, without unpacking them.

    ILSVRC2012_img_train.tar    a tar of 1,000 tars, n01440764.tar ..., one per class
    ILSVRC2012_img_val.tar      50,000 flat files
    labels of val               one class (n01440764) per line in the order of the file names, or
                                Kaggle's LOC_val_solution.csv

Classes are numbered in the order of their WordNet ids, as everywhere but in the official devkit.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from storage.errors import BadImage, BadSource
from storage.pack.listing import Listing
from storage.pack.source import LeftOut, Sample, Source, check_splits, hash_of
from storage.pack.stored import Rule
from storage.resized import Resized
from storage.tar import Entry, entries
from storage.tar_header import BLOCK

_CLASS = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class _Place:
    name: str
    offset: int
    size: int
    label: int


class ImageNet(Source):
    """The two official tars and a file with the labels of the second."""

    def __init__(
        self,
        train_tar: str | Path,
        val_tar: str | Path,
        val_labels: str | Path,
        *,
        rule: Rule = Rule(),  # noqa: B008  frozen
    ) -> None:
        self._rule = rule
        self._tars = {"train": Path(train_tar).absolute(), "val": Path(val_tar).absolute()}
        for path in (*self._tars.values(), Path(val_labels)):
            if not path.is_file():
                raise BadSource(f"{path} is not there")
        self._handles: dict[str, int] = {}
        outer = sorted(_regular(self._entries("train")), key=lambda entry: entry.name)
        self._classes = tuple(entry.name.removesuffix(".tar") for entry in outer)
        odd = [name for name in self._classes if not _CLASS.fullmatch(name)]
        if odd or not outer:
            raise BadSource(
                f"{train_tar} holds no tar of a class named as n01440764.tar"
                + (f" but {odd[0]!r}" if odd else "")
            )
        train = (place for label, entry in enumerate(outer) for place in self._inner(entry, label))
        self._places = {
            "train": _listing(train),
            "val": _listing(self._validation(Path(val_labels))),
        }
        check_splits(str(train_tar), self.splits)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handles": {}}  # another process opens its own

    @property
    def classes(self) -> tuple[str, ...]:
        """WordNet ids, sorted."""
        return self._classes

    @property
    def splits(self) -> Mapping[str, int]:
        """Images of train and val."""
        return {split: len(places) for split, places in self._places.items()}

    @property
    def resized(self) -> Resized | None:
        """How large images are made smaller, by the rule."""
        return self._rule.resized

    @property
    def paths(self) -> tuple[Path, ...]:
        """The two tars."""
        return tuple(self._tars.values())

    def identity(self) -> str:
        """Hash of the places of all images, and of the tars' times of change."""
        changed = (str(path.stat().st_mtime_ns) for path in self.paths)
        places = (places.identity() for places in self._places.values())
        return hash_of(*changed, *places, *filter(None, [self._rule.identity()]))

    def read(self, split: str, i: int) -> Sample:
        """One image, its header checked."""
        name = self._places[split].name(i)
        label, offset, size = self._places[split].about(i)
        data = os.pread(self._handle(split), size, offset)
        try:
            if len(data) != size:
                raise BadImage(f"{len(data)} of {size} bytes: the tar is incomplete")
            stored = self._rule(data)
        except BadImage as error:
            raise LeftOut(name, str(error)) from None
        key = name.rpartition(".")[0].replace(".", "_")
        # by its bytes: one file named .JPEG is a PNG
        return Sample(
            key=key, suffix=stored.suffix, data=stored.data, label=label, notes=stored.notes
        )

    def _handle(self, split: str) -> int:
        if split not in self._handles:
            self._handles[split] = os.open(self._tars[split], os.O_RDONLY)
        return self._handles[split]

    def _entries(self, split: str, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
        handle, path = self._handle(split), self._tars[split]
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
            raise BadSource(f"{labels} has classes that train lacks: {', '.join(unknown[:5])}")
        missing = [entry.name for entry in files if entry.name not in by_name]
        if missing:
            raise BadSource(f"{labels} has no label for {len(missing)} files, such as {missing[0]}")
        return [_Place(e.name, e.offset, e.size, number[by_name[e.name]]) for e in files]


def _listing(places: Iterable[_Place]) -> Listing:
    """Columns: label, offset, bytes."""
    return Listing.of(((p.name, (p.label, p.offset, p.size)) for p in places), columns=3)


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
