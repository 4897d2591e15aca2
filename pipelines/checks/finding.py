"""What a check of `pipelines/doctor.py` found, in one line that holds no credentials."""

from dataclasses import dataclass
from typing import Literal

from pipelines.cli.redaction import scrub


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    name: str
    status: Literal["ok", "warn", "FAIL"]
    text: str
    """What was found; where something is wrong, what to do."""

    def __str__(self) -> str:
        return f"{self.status:<4}  {self.name:<12} {scrub(self.text)}"


def ok(name: str, text: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", text)


def warn(name: str, text: str) -> Finding:
    """It will run, and not as it should."""
    return Finding(name, "warn", text)


def fail(name: str, text: str) -> Finding:
    """It will not run."""
    return Finding(name, "FAIL", text)
