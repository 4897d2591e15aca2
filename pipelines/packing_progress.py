"""What a person sees while it packs: a live line on a terminal, plain lines in a log."""

import time
from typing import TextIO

from pipelines.progress import LOG_SECONDS, Progress, clock
from storage.pack.execute import Tally

_MUCH_SECONDS = 2.0
"""A log hears of packing that takes longer than this."""


class PackingProgress(Progress):
    """Prints how far packing is: rewrites one line on a terminal, else one line in 10 s at most."""

    def __init__(self, name: str, *, stream: TextIO | None = None) -> None:
        super().__init__(name, steps=0, global_batch=1, stream=stream)
        self._started = time.monotonic()
        self._printed = self._started + _MUCH_SECONDS - LOG_SECONDS
        self._told_found = False

    def __call__(self, tally: Tally) -> None:
        """A `storage.pack.execute.Progress`."""
        now = time.monotonic()
        if not self._told_found and tally.found_shards:
            self.note(
                f"{tally.found_shards} of {tally.total_shards} shards were done by an earlier run"
            )
        self._told_found = True
        line = packing_line(tally, seconds=now - self._started)
        if self.live:
            self.stream.write(f"\r\x1b[K{self.name}: {line}")
            self.stream.flush()
            self._open_line = True
        elif now - self._printed >= LOG_SECONDS:
            self.note(line)
            self._printed = now
        if tally.shards == tally.total_shards:
            self.end()


def packing_line(tally: Tally, *, seconds: float) -> str:
    """`12000/50000 images  5/20 shards  1534 img/s  ETA 0:25`; rates are this run's alone."""
    line = (
        f"{tally.done:.0f}/{tally.total:.0f} {tally.unit}"
        f"  {tally.shards}/{tally.total_shards} shards"
    )
    rate = (tally.done - tally.found) / seconds if seconds else 0.0
    if not rate:
        return line
    unit = "img" if tally.unit == "images" else tally.unit
    return f"{line}  {rate:.0f} {unit}/s  ETA {clock((tally.total - tally.done) / rate)}"
