"""`pipelines/doctor.py`: check a deployment before submitting a job, with one line per check.

All checks run at once, in bounded time. Exit codes:

0  no check failed        1  a check failed        2  the command line is wrong
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from pipelines.checks.finding import Finding, fail
from pipelines.checks.machine import (
    check_collectives,
    check_decoder,
    check_devices,
    check_disk,
    check_environment,
    check_memory,
    check_versions,
)
from pipelines.checks.services import CHECKS as SERVICES
from pipelines.cli.command_line import program_name, read_command
from pipelines.cli.exits import errors_as_exits
from pipelines.cli.options import Command

Check = Callable[[Command], Finding]
MACHINE: tuple[Check, ...] = (
    check_versions,
    check_environment,
    check_devices,
    check_collectives,
    check_decoder,
    check_disk,
    check_memory,
)
SECONDS = 30.0
"""Time limit of all checks together; a check that takes longer has failed."""


def main(description: str) -> NoReturn:
    """Run all checks, print the findings and exit."""
    with errors_as_exits():
        command = read_command(sys.argv[1:], prog=program_name(), description=description)
    began = time.monotonic()
    findings = examine(command, (*MACHINE, *SERVICES), seconds=SECONDS)
    for finding in findings:
        print(finding)
    failed = sum(finding.status == "FAIL" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    took = time.monotonic() - began
    print(f"{len(findings)} checks, {failed} failed, {warned} warnings, in {took:.0f} s")
    sys.exit(1 if failed else 0)


@dataclass
class _Running:
    """A check that is running."""

    check: Check
    finding: Finding | None = None

    @property
    def name(self) -> str:
        """Name of the check, as in its findings."""
        name = self.check.__name__.removeprefix("check_")
        return {"ray": "Ray", "mlflow": "MLflow"}.get(name, name)

    def run(self, command: Command) -> None:
        try:
            self.finding = self.check(command)
        except BaseException as error:  # a check that raises has failed; the others continue
            self.finding = fail(self.name, f"{type(error).__name__}: {error}")


def examine(command: Command, checks: Sequence[Check], *, seconds: float) -> list[Finding]:
    """Run all checks in parallel; return the findings in the order of the checks."""
    running = [_Running(check) for check in checks]
    threads = [
        threading.Thread(target=task.run, args=(command,), daemon=True)  # may be left hanging
        for task in running
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [task.finding or fail(task.name, f"no answer within {seconds:g} s") for task in running]
