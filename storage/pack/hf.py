"""Image datasets of the Hugging Face Hub on disk: parquet files with images as original bytes.

    data/train-00000-of-00005.parquet     `train/*.parquet` and `default/train/0000.parquet` too
    data/validation-00000-of-00001.parquet    or val, or test; else part of train is held out
    data/test-00000-of-00001.parquet      beside a validation split: the test split

Class names come from the schema's metadata, key `huggingface`, or are the labels themselves if
these are strings. A row group is read as a whole, so it is the block that is shuffled (`plan.py`):
in a class-sorted file each shard has the classes of its row groups, and a better mix would need
reading everything several times.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import BadImage, BadSource
from storage.pack.hf_schema import find_columns
from storage.pack.listing import Listing
from storage.pack.source import (
    LeftOut,
    Sample,
    Source,
    check_splits,
    gone,
    hash_of,
    is_validation,
)
from storage.pack.split_names import split_of_file
from storage.pack.stored import Rule
from storage.resized import Resized

_SPLITS = ("train", "val", "test")


class HuggingFace(Source):
    """The parquet files below a folder."""

    def __init__(
        self,
        folder: str | Path,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        validation_fraction: float | None = None,
        rule: Rule = Rule(),  # noqa: B008  frozen
    ) -> None:
        self._rule = rule
        self._notes: dict[str, int] = {}
        self._root = Path(folder).absolute()
        self._files = _files_by_split(folder, self._root)
        if "val" not in self._files and "test" in self._files and validation_fraction is None:
            self._files["val"] = self._files.pop("test")
            self._notes[
                "the test files are the validation split; --validation-fraction 0.1 would keep "
                "them as `test` and hold out a part of the training images"
            ] = 1
        first = self._root / self._files["train"][0]
        with _opened(first) as file:
            self._columns = find_columns(first, file.schema_arrow, image_column, label_column)
        self._groups = {split: self._group_listing(names) for split, names in self._files.items()}
        self._classes = self._columns.classes or self._own_classes()
        self._numbers = {name: i for i, name in enumerate(self._classes)}
        if "val" in self._files and "test" in self._files and not self._labelled("test"):
            self._notes["test files without labels, not packed"] = len(self._files.pop("test"))
        self._rows = {split: np.arange(self._edges(split)[-1]) for split in self._files}
        self._of = {split: split for split in self._files}
        if "val" not in self._files:
            fraction = 0.1 if validation_fraction is None else validation_fraction
            draws = (f"hf/{row}" for row in range(len(self._rows["train"])))
            held = np.array([is_validation(draw, fraction=fraction) for draw in draws])
            self._rows |= {"train": np.flatnonzero(~held), "val": np.flatnonzero(held)}
            self._of["val"] = "train"
        self._read_last: tuple[tuple[str, int], pa.Table] | None = None
        check_splits(str(folder), self.splits)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_read_last": None}

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        return self._classes

    @property
    def splits(self) -> Mapping[str, int]:
        """Number of rows in train, val and, if it exists beside val, test."""
        return {split: len(self._rows[split]) for split in _SPLITS if split in self._rows}

    @property
    def notes(self) -> Mapping[str, int]:
        """How the files were interpreted."""
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
        """Hash of the files' names, sizes, times of change and row groups, and of the split."""
        groups = (listing.identity() for listing in self._groups.values())
        rule = filter(None, [self._rule.identity()])
        return hash_of(str(self._columns), *groups, *self._rows.values(), *rule)

    def blocks(self, split: str) -> np.ndarray:
        """The rows of each row group that belong to the split: int64 [groups + 1]."""
        return np.searchsorted(self._rows[split], self._edges(self._of[split]))

    def read(self, split: str, i: int) -> Sample:
        """Read one row. Its row group stays in memory until a row of another group is read."""
        row = int(self._rows[split][i])
        edges = self._edges(self._of[split])
        group = int(np.searchsorted(edges, row, side="right")) - 1
        name = self._groups[self._of[split]].name(group)
        table = self._group(split, group)
        within = row - int(edges[group])
        what = f"{name}, row {row}"
        label = table.column(1)[within].as_py()
        if label is None:
            raise LeftOut(what, "no label")
        data = _image(table.column(0)[within].as_py(), what)
        try:
            stored = self._rule(data)
        except BadImage as error:
            raise LeftOut(what, str(error)) from None
        return Sample(
            key=f"{split}-{row:09d}",
            suffix=stored.suffix,
            data=stored.data,
            label=self._numbers[str(label)] if self._columns.named else label,
            notes=stored.notes,
        )

    def _edges(self, split: str) -> np.ndarray:
        """First row of every row group, and the end: int64 [groups + 1]."""
        return np.concatenate([[0], np.cumsum(self._groups[split].numbers[:, 0])]).astype(np.int64)

    def _group(self, split: str, group: int) -> pa.Table:
        """Image and label of a row group."""
        key = (self._of[split], group)
        if self._read_last is None or self._read_last[0] != key:
            listing = self._groups[key[0]]
            path, number = self._root / listing.name(group), listing.about(group)[1]
            self._read_last = None  # two of them need not fit
            with _opened(path) as file:
                table = file.read_row_group(number, columns=list(self._columns.names))
            self._read_last = (key, table.select(list(self._columns.names)))
        return self._read_last[1]

    def _group_listing(self, names: list[str]) -> Listing:
        """One entry per row group. Columns: rows, its number in the file, the file's bytes and time
        of change in nanoseconds."""
        entries: list[tuple[str, tuple[int, ...]]] = []
        for name in names:
            path = self._root / name
            with _opened(path) as file:
                self._columns.require_same(path, file.schema_arrow)
                groups = file.metadata
            about = (path.stat().st_size, path.stat().st_mtime_ns)
            for number in range(groups.num_row_groups):
                entries.append((name, (groups.row_group(number).num_rows, number, *about)))
        if not entries:
            raise BadSource(f"{self._root / names[0]} and its split have no rows")
        return Listing.of(entries, columns=4)

    def _own_classes(self) -> tuple[str, ...]:
        """Find the classes by reading all labels, if the metadata does not name them.

        Strings are the names, sorted; numbers become names as they are.
        """
        labels = {label for split in self._files for label in self._labels_of(split)}
        if not self._columns.named:
            return tuple(str(label) for label in range(1 + max(labels, default=-1)))
        names = sorted(str(label) for label in labels)
        numbers = all(name.isascii() and name.isdigit() for name in names)
        names = sorted(names, key=int) if numbers else names  # 2 before 10
        self._notes[f"class names are the {len(names)} values of {self._columns.label!r}"] = 1
        return tuple(names)

    def _labels_of(self, split: str) -> set[Any]:
        found: set[Any] = set()
        for name in self._files[split]:
            with _opened(self._root / name) as file:
                labels = file.read(columns=[self._columns.label]).column(0)
            found.update(label for label in labels.unique().to_pylist() if label is not None)
        return found

    def _labelled(self, split: str) -> bool:
        """Whether a split has any valid label: the Hub's test splits often have only -1."""
        return self._columns.named or max(self._labels_of(split), default=-1) >= 0


def _files_by_split(folder: str | Path, root: Path) -> dict[str, list[str]]:
    """Split (train and, if there are any, others) -> paths below the root, sorted."""
    if not root.is_dir():
        raise BadSource(f"{folder} is not a folder")
    found = (path.relative_to(root).as_posix() for path in root.rglob("*.parquet"))
    names = sorted(name for name in found if not f"/{name}".count("/."))  # .cache of downloads
    if not names:
        arrow = next(root.rglob("*.arrow"), None)
        raise BadSource(
            f"{folder} has no .parquet file"
            + (f" but {arrow.name}: write parquet by Dataset.to_parquet(...)" if arrow else "")
        )
    splits: dict[str | None, list[str]] = {}
    for name in names:
        splits.setdefault(split_of_file(name), []).append(name)
    if list(splits) == [None]:
        return {"train": splits[None]}
    if None in splits or "train" not in splits:
        odd = splits.get(None, names)[0]
        raise BadSource(
            f"{folder}/{odd} belongs to no split that can be used: wanted train-*.parquet or "
            "train/*.parquet, and validation, val or test beside it or not"
        )
    return {split: splits[split] for split in _SPLITS if split in splits}


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    """Open a parquet file; errors while it is open become one-line BadSource errors."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise gone(path) from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadSource(f"{path} is not a parquet file, or incomplete: {reason}") from None


def _image(value: Any, what: str) -> bytes:
    """The image bytes in a cell, which is struct{bytes, path} or binary."""
    if isinstance(value, bytes):
        return value
    if value is None:
        raise LeftOut(what, "no image")
    if value["bytes"] is None:
        where = value.get("path")
        raise LeftOut(what, f"no bytes, only the path {where!r}" if where else "no image")
    return value["bytes"]
