"""`pipelines/status.py`: list what a storage root holds, and what a pipeline would run next."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import NoReturn

from rich.table import Table

from pipelines.cli.command_line import program_name, read_command
from pipelines.cli.console import console_for_tables
from pipelines.cli.exits import errors_as_exits
from pipelines.cli.options import Command
from pipelines.cli.parser import peek
from pipelines.lineage.attempts import is_attempt, runs_beside
from pipelines.lineage.status import StoredAttempt, Verdict, attempts_under, what_would_run
from pipelines.recipes.errors import Mistake
from storage.uri import join


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Options of `status.py`."""

    json: bool = False
    """Print JSON instead of tables."""


def main(description: str) -> NoReturn:
    """Print the status; exit with a code of `pipelines.cli.exits`."""
    with errors_as_exits():
        command, only_run = read_status(sys.argv[1:], prog=program_name(), description=description)
        attempts = attempts_under(command.place.storage_root, run=only_run)
        beside = (
            runs_beside(join(command.place.storage_root, only_run, "STAGE")) if only_run else ""
        )
        if only_run and not attempts and beside:
            raise Mistake(f"no run {only_run} under {command.place.storage_root}{beside}")
        verdicts = what_would_run(command, attempts)
        if command.own.json:
            content = {
                "storage_root": command.place.storage_root,
                "attempts": [attempt.record() for attempt in attempts],
                "stages": [asdict(verdict) for verdict in verdicts],
            }
            print(json.dumps(content, indent=1))
        else:
            print_status(attempts, verdicts, command)
    sys.exit(0)


def read_status(
    argv: list[str], *, prog: str, description: str
) -> tuple[Command[StatusOptions], str | None]:
    """Parse the options of `pipeline.py`; also return `--run` if it was given."""
    run = peek(argv, prog, run=None).run
    return read_command(argv, prog=prog, description=description, own=StatusOptions()), run


def print_status(attempts: list[StoredAttempt], verdicts: list[Verdict], command: Command) -> None:
    """Print a table of the attempts, and one of what a pipeline would run."""
    console = console_for_tables()
    root = command.place.storage_root
    if attempts:
        console.print(_attempts(attempts, root))
    else:
        console.print(f"nothing is committed or saved under {root}", soft_wrap=True, markup=False)
    table = Table(
        title=f"recipe {command.options.recipe}, run {command.options.run}: what would run",
        title_justify="left",
    )
    for heading in ("stage", "state", "fingerprint"):
        table.add_column(heading, no_wrap=True)
    table.add_column("why", overflow="fold")
    for verdict in verdicts:
        table.add_row(verdict.stage, verdict.state, verdict.fingerprint or "-", verdict.reason)
    console.print(table)


def _attempts(attempts: list[StoredAttempt], root: str) -> Table:
    table = Table(title=f"attempts under {root}", title_justify="left")
    for heading in ("run", "stage", "attempt", "state"):
        table.add_column(heading)
    for heading in ("step", "val accuracy"):
        table.add_column(heading, justify="right")
    for heading in ("started", "parent", "MLflow run"):
        table.add_column(heading)
    for stored in attempts:
        record = stored.record()
        accuracy = record["val_accuracy"]
        table.add_row(
            stored.run,
            stored.stage,
            stored.attempt.name,
            ("committed" if record["committed"] else "unfinished")
            + ("" if is_attempt(stored.attempt.name) else ", not used: no attempt has such a name"),
            str(record["step"]),
            "-" if accuracy is None else f"{accuracy:.4f}",
            record["started"] or "-",
            record["parent"] or "-",
            record["mlflow_run_id"] or "-",
        )
    return table
