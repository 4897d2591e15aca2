"""What a check of `pipelines/doctor.py` found, in one line that holds no credentials."""

import os
import re
from dataclasses import dataclass
from typing import Literal

_SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "RAY_AUTH_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
_USERINFO = re.compile(r"//[^/@\s]+@")


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


def scrub(text: object) -> str:
    """One line, without user and password of URLs and without the secrets of the environment."""
    line = _USERINFO.sub("//***@", " ".join(str(text).split()))
    for name in _SECRETS:
        secret = os.environ.get(name, "")
        if len(secret) > 3:
            line = line.replace(secret, "***")
    return line
