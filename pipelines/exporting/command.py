"""`pipelines/export.py`: resolve the options, write the folder."""

import sys
from pathlib import Path
from typing import NoReturn

import tyro

from pipelines.cli.exits import errors_as_exits
from pipelines.cli.options import program_name, read_command
from pipelines.exporting.card import card
from pipelines.exporting.export import Export, ExportOptions, make_export
from pipelines.exporting.folder import check_target, new_folder
from pipelines.exporting.formats import write_format

_REQUIRED = ExportOptions(to=tyro.MISSING, out=tyro.MISSING)


def main(description: str) -> NoReturn:
    """Export the weights of the command line; exit with a code of `pipelines.cli.exits`."""
    with errors_as_exits():
        command = read_command(
            sys.argv[1:], prog=program_name(), description=description, own=_REQUIRED
        )
        check_target(command.own.out)
        export = make_export(command)
        for line in (export.classes.unknown, *export.candidate.notes, *write(export)):
            if line:
                print(f"export: {line}")
    sys.exit(0)


def write(export: Export) -> tuple[str, ...]:
    """Write the folder; return lines that say what was written.

    Raises:
        Mistake: the folder is not empty, or the format cannot be written.
        storage.errors.StorageError: the weights or the disk failed.
    """
    tensors = export.candidate.tensors()
    with new_folder(export.out) as folder:
        note = write_format(export, tensors, folder)
        (folder / "README.md").write_text(card(export), encoding="utf-8")
        files = sorted(path.name for path in folder.iterdir())
    return (
        f"{export.candidate.name} ({export.candidate.average} weights) for {export.to}",
        note,
        f"wrote {', '.join(files)} into {Path(export.out)}",
    )
