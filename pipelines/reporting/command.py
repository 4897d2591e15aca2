"""`pipelines/report.py`, and the report at the end of a pipeline."""

import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from pipelines.cli.command_line import program_name, read_command
from pipelines.cli.exits import errors_as_exits, unwrapped
from pipelines.cli.options import Command
from pipelines.recipes.errors import Mistake
from pipelines.reporting.content import gather
from pipelines.reporting.page import render
from pipelines.tracking import client as tracking

ARTIFACT = "report.html"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `report.py`."""

    out: Path | None = None
    """HTML file to write. Default: report-<run>.html in the working directory."""


def main(description: str) -> NoReturn:
    """Write the report of a run and log it; exit as `pipelines.cli.exits` says."""
    with errors_as_exits():
        command = read_command(
            sys.argv[1:], prog=program_name(), description=description, own=ReportOptions()
        )
        out = command.own.out or Path(default_file(command.options.run))
        if out.is_dir() or not out.parent.is_dir():
            raise Mistake(f"--out {out}: wanted a file in an existing folder")
        page, logged = make_report(command, tracking.open_client(command.place.mlflow_uri))
        out.write_bytes(page)
        print(f"wrote {out} ({len(page) / 2**20:.1f} MiB), and in MLflow {logged}")
    sys.exit(0)


def make_report(command: Command, client: Any) -> tuple[bytes, str]:
    """The page, and where it lies as an artifact of the run's parent run.

    Raises:
        Mistake: MLflow knows no such run, or does not answer.
    """
    content = gather(command, client)
    page = render(content, made=datetime.now(UTC)).encode()
    return page, tracking.log_file(client, content.run_id, ARTIFACT, page)


def report_at_the_end(command: Command) -> None:
    """Make the report and print where it is; errors are one line, because the run is finished."""
    try:
        client = tracking.open_client(command.place.mlflow_uri)
        _, logged = make_report(command, client)
        print(f"Report: {logged.removeprefix('file://')}")
    except Exception as error:  # the tracker's, the storage's: none of them undoes the stages
        print(f"warning: no report: {unwrapped(error)}", file=sys.stderr)


def default_file(run: str) -> str:
    """`report-<run>.html`, whatever characters the run's name has."""
    return f"report-{re.sub(r'[^A-Za-z0-9._-]+', '-', run)}.html"
