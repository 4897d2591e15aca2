"""The finding of a check of `pipelines/doctor.py`: one line, without credentials."""

from dataclasses import dataclass
from typing import Literal

from pipelines.cli.redaction import scrub


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    name: str
    status: Literal["ok", "warn", "FAIL"]
    text: str
    """What was found, and if something is wrong, what to do."""

    def __str__(self) -> str:
        return f"{self.status:<4}  {self.name:<12} {scrub(self.text)}"


def ok(name: str, text: str) -> Finding:
    """Report that a check passed."""
    return Finding(name, "ok", text)


def warn(name: str, text: str) -> Finding:
    """Report that training will run, but not as it should."""
    return Finding(name, "warn", text)


def fail(name: str, text: str) -> Finding:
    """Report that training will not run."""
    return Finding(name, "FAIL", text)
