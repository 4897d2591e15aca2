"""A local `--out FILE.csv` or `--out FILE.parquet`: one file, joined from the parts at the end.

The parts lie in FILE.parts until then, so that a command that was stopped goes on. The file appears
as a whole, and the folder of the parts goes.
"""

import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet

from pipelines.prediction.output import CsvOutput
from pipelines.recipes.errors import Mistake
from storage.uri import parse

CSV, PARQUET = ".csv", ".parquet"
_PARTS = ".parts"


def file_of(out: str) -> Path | None:
    """The one file that `--out` names; None for a folder, or a place in a bucket.

    Raises Mistake where something is there already, or for a CSV in a bucket.
    """
    location = parse(out)
    file = Path(location.path)
    if location.bucket is not None and file.suffix.lower() == CSV:
        raise Mistake(f"--out {out}: a bucket takes Parquet - wanted a local FILE.csv, or no .csv")
    if location.bucket is not None or file.suffix.lower() not in (CSV, PARQUET):
        return None
    if file.exists():
        raise Mistake(f"--out {out} is there already: give another --out, or delete it")
    return file


def parts_of(file: Path) -> str:
    """The folder of the parts of a file."""
    return f"{file}{_PARTS}"


def join_parts(folder: str, names: Iterable[str], file: Path) -> None:
    """Write a file from the parts of these names, in order, and remove their folder."""
    joined = Path(folder, "_joined")
    tables = (pyarrow.parquet.read_table(Path(folder, name)) for name in names)
    if file.suffix.lower() == CSV:
        with joined.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
            output = CsvOutput(stream)
            for table in tables:
                output.add(table.to_pydict())
    else:
        first = next(tables)
        with pyarrow.parquet.ParquetWriter(joined, first.schema) as writer:
            for table in itertools.chain([first], tables):
                writer.write_table(table)
    os.replace(joined, file)
    shutil.rmtree(folder)
