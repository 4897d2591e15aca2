"""Image datasets of the Hugging Face Hub as they lie on disk: parquet, images as their original
bytes.

    data/train-00000-of-00005.parquet     `train/*.parquet` and `default/train/0000.parquet` too
    data/validation-00000-of-00001.parquet    or val, test; without one, a part of train is held out

Class names come from the schema's metadata, key `huggingface`. A row group is read as a whole, so
it is the block that is shuffled (`plan.py`): in a class-sorted file each shard holds the classes of
its row groups, and no better mix is to be had without reading everything several times.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.decode import probe
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
    suffix_of,
)

_SPLIT = re.compile(r"(train|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE)
_HELD_OUT = ("validation", "valid", "val", "dev", "test")


class HuggingFace(Source):
    """The parquet files below a folder."""

    def __init__(
        self,
        folder: str | Path,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        validation_fraction: float = 0.1,
    ) -> None:
        self._root = Path(folder).absolute()
        self._files = _files_by_split(folder, self._root)
        first = self._root / self._files["train"][0]
        with _opened(first) as file:
            self._columns = find_columns(first, file.schema_arrow, image_column, label_column)
        self._groups = {split: self._group_listing(names) for split, names in self._files.items()}
        self._classes = self._columns.classes or self._numbered_classes()
        self._rows = {split: np.arange(self._edges(split)[-1]) for split in self._files}
        self._of = {split: split for split in self._files}
        if "val" not in self._files:
            draws = (f"hf/{row}" for row in range(len(self._rows["train"])))
            held = np.array([is_validation(draw, fraction=validation_fraction) for draw in draws])
            self._rows = {"train": np.flatnonzero(~held), "val": np.flatnonzero(held)}
            self._of = {"train": "train", "val": "train"}
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
        """Rows of train and val."""
        return {split: len(rows) for split, rows in self._rows.items()}

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder."""
        return (self._root,)

    def identity(self) -> str:
        """Hash of the files' names, sizes, times of change and row groups, and of the split."""
        groups = (listing.identity() for listing in self._groups.values())
        return hash_of(str(self._columns), *groups, *self._rows.values())

    def blocks(self, split: str) -> np.ndarray:
        """The rows of each row group that belong to the split: int64 [groups + 1]."""
        return np.searchsorted(self._rows[split], self._edges(self._of[split]))

    def read(self, split: str, i: int) -> Sample:
        """One row. Its row group stays in memory until a row of another is asked for."""
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
            probe(data)
        except BadImage as error:
            raise LeftOut(what, str(error)) from None
        suffix = suffix_of(data)
        assert suffix is not None, what
        return Sample(key=f"{split}-{row:09d}", suffix=suffix, data=data, label=label)

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
        """One entry a row group. Columns: rows, its number in the file, the file's bytes and time
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
            raise BadSource(f"{self._root / names[0]} and its split hold no row")
        return Listing.of(entries, columns=4)

    def _numbered_classes(self) -> tuple[str, ...]:
        """The labels as their own names, where the metadata name none: all labels are read."""
        highest = -1
        for names in self._files.values():
            for name in names:
                with _opened(self._root / name) as file:
                    labels = file.read(columns=[self._columns.label]).column(0)
                highest = max([highest, *(x for x in labels.unique().to_pylist() if x is not None)])
        return tuple(str(label) for label in range(highest + 1))


def _files_by_split(folder: str | Path, root: Path) -> dict[str, list[str]]:
    """train, and val where there is one -> paths below the root, sorted."""
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
        splits.setdefault(_split_of(name), []).append(name)
    if list(splits) == [None]:
        return {"train": splits[None]}
    if None in splits or "train" not in splits:
        odd = splits.get(None, names)[0]
        raise BadSource(
            f"{folder}/{odd} belongs to no split that can be used: wanted train-*.parquet or "
            "train/*.parquet, and validation, val or test beside it or not"
        )
    held = next((splits[name] for name in _HELD_OUT if name in splits), None)
    return {"train": splits["train"], **({"val": held} if held else {})}


def _split_of(name: str) -> str | None:
    """By the last folder or file name that begins with a split's."""
    for part in reversed(name.split("/")):
        found = _SPLIT.match(part)
        if found:
            return found.group(1).lower()
    return None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A parquet file; what fails while it is open is said in one line."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise gone(path) from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadSource(f"{path} is no parquet file, or a torn one: {reason}") from None


def _image(value: Any, what: str) -> bytes:
    """The bytes of a cell: struct{bytes, path} or binary."""
    if isinstance(value, bytes):
        return value
    if value is None:
        raise LeftOut(what, "no image")
    if value["bytes"] is None:
        where = value.get("path")
        raise LeftOut(what, f"no bytes, only the path {where!r}" if where else "no image")
    return value["bytes"]
