"""Event files for TensorBoard, beside MLflow, for those who look there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.tracking.history import MetricPoint


class EventFiles:
    """Writes metrics into event files of one folder. A process that comes later adds a file."""

    def __init__(self, folder: Path) -> None:
        """Remember a folder, which is made with the first metric."""
        self._folder = folder
        self._writer: Any = None

    def add(self, points: Sequence[MetricPoint]) -> None:
        """Write metrics, readable at once. Raises OSError."""
        if self._writer is None:
            from tensorboardX import SummaryWriter  # comes with ray[train]; half a second

            self._writer = SummaryWriter(str(self._folder))
        for name, value, time_ms, step in points:
            self._writer.add_scalar(name, value, global_step=step, walltime=time_ms / 1000)
        self._writer.flush()
