"""Show predictions: a table on a terminal, CSV for everything else."""

import csv
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.table import Table

MOST_SHOWN = 1000
"""Rows of the table on a terminal, which holds them all before it draws them."""


class Output(Protocol):
    """Takes predictions as they arrive."""

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take some rows: the columns of `table_columns`."""
        ...

    def end(self) -> None:
        """Take note that there are no more."""
        ...


class CsvOutput:
    """Writes CSV rows as they arrive."""

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")
        self._stream, self._began = stream, False

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write some rows, the first time after a heading."""
        if not self._began:
            self._writer.writerow(columns)
            self._began = True
        self._writer.writerows(zip(*columns.values(), strict=True))
        self._stream.flush()

    def end(self) -> None:
        """Do nothing: all rows were written."""


class TableOutput:
    """Collects rows and draws them as one table."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._table = Table()
        for heading in ("file", "class", "probability", "error"):
            self._table.add_column(heading, overflow="fold")
        self._left_out = 0

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take some rows; several classes of an image are lines of one row."""
        for row in range(len(columns["file"])):
            if self._table.row_count == MOST_SHOWN:
                self._left_out += len(columns["file"]) - row
                return
            values = {name: column[row] for name, column in columns.items()}
            several = [name for name in columns if name.startswith("class")]
            classes = [values[name] for name in several if values[name] is not None]
            shares = [values[name.replace("class", "probability")] for name in several]
            self._table.add_row(
                _plain(values["file"]),
                _plain("\n".join(classes)),
                "\n".join(f"{share:.4f}" for share in shares if share is not None),
                _plain(values["error"] or ""),
            )

    def end(self) -> None:
        """Draw the table."""
        self._console.print(self._table)
        if self._left_out:
            self._console.print(
                f"{self._left_out:,} more rows are not shown: redirect the output into a file for"
                " CSV, or take --out FILE.csv"
            )


def _plain(text: str) -> str:
    return text.replace("[", r"\[")  # brackets would be rich's markup
