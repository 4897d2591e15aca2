"""Images in a folder whose classes are in a CSV (`label_table.py`), as competitions give them out.

Original bytes are stored, as for a folder of classes (`image_files.py`).
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from storage.errors import BadSource, printable
from storage.pack.image_files import ImageFiles, hold_out
from storage.pack.label_table import Columns, Row, read_table
from storage.pack.source import check_splits
from storage.pack.stored import Rule
from storage.pack.tree import IMAGE_SUFFIXES, files_below

_INTEGER = re.compile(r"-?[0-9]+")
Place = tuple[str, str]  # class, path below the folder


class Table(ImageFiles):
    """The images that a table names."""

    def __init__(
        self,
        table: str | Path,
        folder: str | Path,
        *,
        val_table: str | Path | None = None,
        columns: Columns = Columns(),  # noqa: B008  frozen
        validation_fraction: float | None = None,
        rule: Rule = Rule(),  # noqa: B008  frozen
    ) -> None:
        super().__init__(Path(folder).absolute(), rule)
        if not self._root.is_dir():
            raise BadSource(f"{folder} is not a folder")
        rows = read_table(Path(table), columns)
        splits = _by_split(Path(table), rows)
        if val_table is not None:
            if list(splits) != ["train"]:
                raise BadSource(f"{table} has a column of splits: leave --val-table out")
            splits["val"] = read_table(Path(val_table), columns)
        images = {split: self._images(split, some) for split, some in splits.items()}
        self._classes = _in_order({label for label, _ in images["train"]})
        labelled = {split: self._numbered(split, some) for split, some in images.items()}
        if "test" in labelled and "val" not in labelled and validation_fraction is None:
            labelled["val"] = labelled.pop("test")
            self._notes[
                "the rows of `test` are the validation split; --validation-fraction 0.1 would keep"
                " them as `test` and hold out a part of the training images"
            ] = 1
        held = {} if "val" in labelled else hold_out(labelled["train"], validation_fraction)
        self._take(held | {split: some for split, some in labelled.items() if split not in held})
        self._note_classes()
        files = {split: {name for _, name in some} for split, some in images.items()}
        for split in ("val", "test"):
            if both := len(files["train"] & files.get(split, set())):
                self._notes[f"images of {split} that are in train too"] = both
        self._note_rest(set().union(*files.values()))
        check_splits(str(table), self.splits)

    def _images(self, split: str, rows: Iterable[Row]) -> list[Place]:
        """The files of a split with their classes, each once."""
        found: dict[str, Row] = {}
        listed = cache(_by_stem)
        for row in rows:
            name = self._inside(row)
            path = self._root / name
            if path.suffix.lower() not in IMAGE_SUFFIXES:  # `id` for `id.jpg`
                name += _suffix(path, listed(path.parent).get(path.name, ()))
            before = found.setdefault(name, row)
            if before.label != row.label:
                raise BadSource(
                    f"{row.where}: {printable(name)} is {row.label!r}, and {before.label!r} in"
                    f" {before.where}; an image has one class"
                )
            if before is not row:
                what = f"rows of {split} that repeat an image ignored"
                self._notes[what] = self._notes.get(what, 0) + 1
        return sorted((row.label, name) for name, row in found.items())

    def _inside(self, row: Row) -> str:
        """Path below the folder. Raises BadSource for one that leads out of it."""
        path = PurePosixPath(row.file)
        if path.is_absolute() and path.is_relative_to(self._root):
            path = path.relative_to(self._root)
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in row.file:
            raise BadSource(
                f"{row.where}: {printable(row.file)[:80]!r} is not a file below {self._root}"
            )
        return path.as_posix()

    def _note_rest(self, named: set[str]) -> None:
        below = (path.relative_to(self._root) for path in files_below(self._root, Counter()))
        images = (path for path in below if path.suffix.lower() in IMAGE_SUFFIXES)
        if rest := sum(path.as_posix() not in named for path in images):
            self._notes["image files without a row ignored"] = rest

    def _numbered(self, split: str, images: Iterable[Place]) -> list[tuple[int, str]]:
        number = {name: label for label, name in enumerate(self._classes)}
        images = list(images)
        if unknown := sorted({label for label, _ in images} - set(number)):
            some = ", ".join(printable(name) for name in unknown[:5])
            raise BadSource(f"split {split!r} has classes that train lacks: {some}")
        return [(number[label], name) for label, name in images]


def _by_split(table: Path, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of train, val and test; all of them are train if the table has no column for it."""
    found: dict[str, list[Row]] = {}
    for split in ("train", "val", "test"):
        if some := [row for row in rows if (row.split or "train") == split]:
            found[split] = some
    if "train" not in found:
        raise BadSource(f"{table} has no row of split train")
    return found


def _in_order(classes: set[str]) -> tuple[str, ...]:
    """Numbers by their value, so that labels 0, 1, ... stay what they are; names by the letter."""
    numbers = all(_INTEGER.fullmatch(name) for name in classes)
    return tuple(sorted(classes, key=lambda name: (int(name) if numbers else 0, name)))


def _by_stem(folder: Path) -> dict[str, list[str]]:
    """Names of the image files in a folder, by their name without suffix."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in sorted(os.listdir(folder)):
            stem, dot, suffix = name.rpartition(".")
            if (dot + suffix).lower() in IMAGE_SUFFIXES:
                found.setdefault(stem, []).append(name)
    return found


def _suffix(path: Path, fitting: Sequence[str]) -> str:
    """The suffix that a table leaves out; empty if there is no such file. Raises BadSource."""
    if len(fitting) > 1:
        some = ", ".join(printable(name) for name in fitting[:3])
        raise BadSource(f"{printable(path.name)} may be {some}: name the file in the table")
    return Path(fitting[0]).suffix if fitting else ""
