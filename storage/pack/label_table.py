"""Labels in a CSV: which column names the file, its class and its split; one class per image.

The first line names the columns. A column is found by its name, or said by an option; where two fit
or none does, nothing is assumed.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.errors import BadSource, printable
from storage.pack.split_names import split_of

_FILE = ("file", "filename", "file_name", "filepath", "path", "image", "image_id", "imageid", "id")
_LABEL = ("label", "class", "class_name", "classname", "category", "target", "species", "breed")
_SPLIT = ("split", "subset", "set")
_DELIMITERS = ",;\t"
_SEVERAL = "|;"  # how tables write several labels into one field


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    where: str
    """The table's path and the number of the line, for messages."""
    file: str
    label: str
    split: str | None
    """train, val or test; None if the table has no such column."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns, where they are not the usual ones."""

    file: str | None = None
    label: str | None = None
    split: str | None = None


def read_table(path: Path, columns: Columns) -> list[Row]:
    """Read a table. Raises BadSource with the line and what was wanted."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadSource(f"{path} cannot be read: {reason}") from None
    delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    try:
        names = [name.strip() for name in next(lines, [])]
        file = _column(path, names, "file", columns.file, _FILE)
        label = _column(path, names, "label", columns.label, _LABEL)
        split = _split_column(path, names, columns.split)
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path}, line {lines.line_num}"
            if len(cells) != len(names):
                raise BadSource(f"{where}: {len(cells)} fields, the first line has {len(names)}")
            rows.append(
                Row(
                    where=where,
                    file=cells[file].strip(),
                    label=_one_label(where, cells[label].strip()),
                    split=None if split is None else _split(where, cells[split].strip()),
                )
            )
    except csv.Error as error:
        raise BadSource(f"{path}, line {lines.line_num}: {error}") from None
    if not rows:
        raise BadSource(f"{path} has no rows below the names of its columns")
    return rows


def _column(
    path: Path, names: Sequence[str], what: str, asked: str | None, usual: Sequence[str]
) -> int:
    """Position of a column. Raises BadSource unless exactly one fits."""
    wanted = usual if asked is None else (asked.lower(),)
    found = [i for i, name in enumerate(names) if name.lower() in wanted]
    if len(found) == 1:
        return found[0]
    there = ", ".join(printable(name) for name in names[:12])
    problem = f"{len(found)} columns fit" if found else "no column fits"
    raise BadSource(
        f"{path}: {problem} for the {what} of an image among: {there}"
        + (f" - say --{what}-column NAME" if asked is None else f" (--{what}-column {asked})")
        + (
            "; columns of 0 and 1 per class are several labels an image, which are not trained"
            if what == "label" and len(names) > 3
            else ""
        )
    )


def _split_column(path: Path, names: Sequence[str], asked: str | None) -> int | None:
    usual = any(name.lower() in _SPLIT for name in names)
    return _column(path, names, "split", asked, _SPLIT) if asked or usual else None


def _one_label(where: str, label: str) -> str:
    if not label:
        raise BadSource(f"{where}: no label; remove the line, or give it a class")
    if any(mark in label for mark in _SEVERAL):
        raise BadSource(
            f"{where}: {printable(label)[:60]} looks like several labels; an image has one class"
        )
    return label


def _split(where: str, name: str) -> str:
    found = split_of(name)
    if found is None:
        raise BadSource(f"{where}: split {printable(name)[:40]!r}: wanted train, val or test")
    return found
