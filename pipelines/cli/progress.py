"""Progress of a stage: a live line on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console

from pipelines.cli.console import clock

LOG_SECONDS = 10.0


class Progress:
    """Prints progress: rewrites one line on a terminal, else prints a line every 10 s at most."""

    def __init__(
        self, name: str, *, steps: int, global_batch: int, stream: TextIO | None = None
    ) -> None:
        self.name, self.steps, self.global_batch = name, steps, global_batch
        self.stream = stream or sys.stdout
        self.live = Console(file=self.stream).is_terminal
        self._printed = -LOG_SECONDS
        self._open_line = False

    def note(self, text: str) -> None:
        """Print a line that stays."""
        if self._open_line:
            self.stream.write("\r\x1b[K")
            self._open_line = False
        self.stream.write(f"{self.name}: {text}\n")
        self.stream.flush()

    def show(self, record: Mapping[str, Any]) -> None:
        """Show the newest step's metrics, a record of `Worker.report`."""
        line = progress_line(record, steps=self.steps, global_batch=self.global_batch)
        now = time.monotonic()
        if self.live:
            self.stream.write(f"\r\x1b[K{self.name}: {line}")
            self.stream.flush()
            self._open_line = True
        elif now - self._printed >= LOG_SECONDS or record["step"] == self.steps:
            self.note(line)
            self._printed = now

    def end(self) -> None:
        """Keep the last live line and end it with a line break."""
        if self._open_line:
            self.stream.write("\n")
            self.stream.flush()
            self._open_line = False


def progress_line(record: Mapping[str, Any], *, steps: int, global_batch: int) -> str:
    """Format a line such as `step 120/400  epoch 10.0  loss 0.4312  1534 img/s  ETA 0:12`."""
    step, rate = int(record["step"]), float(record["train/images_per_second"])
    left = (steps - step) * global_batch / rate
    return (
        f"step {step}/{steps}  epoch {record['train/epoch']:.1f}"
        f"  loss {record.get('train/loss', float('nan')):.4f}  {rate:.0f} img/s  ETA {clock(left)}"
    )
