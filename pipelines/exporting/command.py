"""`pipelines/export.py`: resolve the options, write the folder."""

import sys
from pathlib import Path
from typing import NoReturn

import tyro

from pipelines.cli.command_line import program_name, read_command
from pipelines.cli.exits import errors_as_exits
from pipelines.cli.redaction import redact
from pipelines.exporting.card import card
from pipelines.exporting.export import Export, ExportOptions, make_export
from pipelines.exporting.folder import check_target, new_folder
from pipelines.exporting.formats import write_format
from pipelines.exporting.push import prepare, push

_REQUIRED = ExportOptions(to=tyro.MISSING, out=tyro.MISSING)


def main(description: str) -> NoReturn:
    """Export the weights of the command line; exit with a code of `pipelines.cli.exits`."""
    with errors_as_exits():
        command = read_command(
            sys.argv[1:], prog=program_name(), description=description, own=_REQUIRED
        )
        check_target(command.own.out)
        export = make_export(command)
        if export.push is not None:
            prepare(export.push)
        for line in (export.classes.unknown, *export.candidate.notes, *write(export)):
            if line:
                print(f"export: {line}")
        if export.register is not None:
            print(f"export: {register(export, command.place.mlflow_uri)}")
        if export.push is not None:
            pushed = push(export.push, export.out, f"{export.candidate.name} for {export.to}")
            print(f"export: pushed to {pushed}")
    sys.exit(0)


def register(export: Export, mlflow_uri: str) -> str:
    """Make the folder the newest version of a registered model; say how it is served.

    Raises:
        pipelines.tracking.client.TrackingUnavailable: MLflow does not answer or refuses it.
    """
    # MLflow takes a second to import, and most exports register nothing.
    from pipelines.tracking.client import open_client
    from pipelines.tracking.registry import ALIAS, register_model

    assert export.register is not None
    assert export.manifest is not None
    assert export.manifest.mlflow_run_id is not None
    client, name = open_client(mlflow_uri), export.register
    version = register_model(client, name, export.out, export.manifest.mlflow_run_id)
    return (
        f"version {version} of {name}: MLFLOW_TRACKING_URI={redact(client.tracking_uri)} mlflow"
        f" models serve -m models:/{name}@{ALIAS} --env-manager local"
    )


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
        f"{export.candidate.kind} for {export.to}",
        note,
        f"wrote {', '.join(files)} into {Path(export.out)}",
    )
