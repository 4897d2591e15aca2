"""Progress of packing: a live line on a terminal, plain lines in a log."""

import time
from typing import Self, TextIO

from pipelines.cli.console import clock
from pipelines.cli.progress import LOG_SECONDS, Progress
from storage.dataset import Dataset
from storage.errors import BadDataset
from storage.pack.execute import Tally
from storage.verify import verify

_MUCH_SECONDS = 2.0
"""Packing that takes less prints nothing to a log; a rate is shown only after this time."""


class PackingProgress(Progress):
    """Prints progress: rewrites one line on a terminal, else prints a line every 10 s at most.

    As a context manager it ends the live line, even if packing fails.
    """

    def __init__(self, name: str, *, stream: TextIO | None = None) -> None:
        super().__init__(name, steps=0, global_batch=1, stream=stream)
        self._printed = time.monotonic() + _MUCH_SECONDS - LOG_SECONDS
        self._first: tuple[float, Tally] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def __call__(self, tally: Tally) -> None:
        """Show a tally: implements `storage.pack.execute.Progress`."""
        now = time.monotonic()
        if self._first is None and tally.found_shards:
            self.note(
                f"{tally.found_shards} of {tally.total_shards} shards were done by an earlier run"
            )
        if self._first is None or self._first[1].shards == tally.found_shards:
            self._first = (
                now,
                tally,
            )  # from the first shard of this run on, so that starting Ray does not count
        since, first = self._first
        line = packing_line(tally, first, seconds=now - since)
        if self.live:
            self.stream.write(f"\r\x1b[K{self.name}: {line}")
            self.stream.flush()
            self._open_line = True
        elif now - self._printed >= LOG_SECONDS:
            self.note(line)
            self._printed = now


def packing_line(tally: Tally, first: Tally, *, seconds: float) -> str:
    """Format a line such as `12000/50000 images  5/20 shards  1534 img/s  ETA 0:25`.

    The rate is the mean since the tally `first`, `seconds` ago.
    """
    line = (
        f"{tally.done:.0f}/{tally.total:.0f} {tally.unit}"
        f"  {tally.shards}/{tally.total_shards} shards"
    )
    rate = (tally.done - first.done) / seconds if seconds >= _MUCH_SECONDS else 0.0
    if not rate:
        return line
    unit = "img" if tally.unit == "images" else tally.unit
    return f"{line}  {rate:.0f} {unit}/s  ETA {clock((tally.total - tally.done) / rate)}"


def verified(dataset: Dataset) -> Dataset:
    """Read a dataset again, showing progress. Raises BadDataset, listing all problems."""
    sizes = {shard.name: shard.bytes for shards in dataset.splits.values() for shard in shards}
    seen: list[str] = []

    with PackingProgress("verify") as progress:

        def show(shard: str) -> None:
            seen.append(shard)
            progress(
                Tally(
                    unit="MiB",
                    done=sum(sizes[name] for name in seen) / (1 << 20),
                    total=sum(sizes.values()) / (1 << 20),
                    found=0,
                    shards=len(seen),
                    total_shards=len(sizes),
                    found_shards=0,
                )
            )

        problems = verify(dataset, progress=show)
    if problems:
        remedy = "" if dataset.in_place else ". Pack with --force to replace the damaged files"
        raise BadDataset("; ".join(str(problem) for problem in problems) + remedy)
    print(f"verified: {len(seen)} shards match the manifest")
    return dataset
