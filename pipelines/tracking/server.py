"""What a tracker asks of one run on the tracking server: `mlflow_run.py` is MLflow's."""

from collections.abc import Sequence
from typing import Protocol

from pipelines.tracking.history import MetricPoint


class Refused(Exception):
    """The server will never accept a record: its run was deleted, or its name is bad."""


class Server(Protocol):
    """One run on the tracking server. Calls may block and raise anything; all may be repeated."""

    name: str
    """Name for messages, without credentials."""

    def log_points(self, points: Sequence[MetricPoint]) -> None:
        """Log metrics; logging the same point twice must count once."""
        ...

    def log_file(self, name: str, data: bytes) -> None:
        """Log a small file."""
        ...

    def log_model(self, step: int) -> None:
        """Add the run's weights after so many steps as a model; the same call again adds none."""
        ...

    def end(self, status: str, ended_ms: int) -> None:
        """Close the run."""
        ...

    def answer(self) -> None:
        """Raise if the server does not answer."""
        ...
