"""Measure processor time and memory of this process and its children."""

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

_SAMPLE_SECONDS = 0.5


class Usage:
    """`with Usage() as usage: ...`; then `usage.cpu_seconds`.

    Ask for memory with `proportional_bytes()` when nothing is timed: the kernel walks all pages of
    a process, which waits meanwhile. Four times a second, that took a fifth of the measured rate.
    """

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._first: dict[tuple[int, float], float] = {}
        self._last: dict[tuple[int, float], float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def cpu_seconds(self) -> float:
        """Spent by all processes since the start, up to each one's last sample."""
        return sum(last - self._first[key] for key, last in self._last.items())

    def proportional_bytes(self) -> int:
        """Proportional set size of this process and its children, now."""
        total = 0
        for process in self._processes():
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total

    def __enter__(self) -> "Usage":
        self._sample(starting=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self._sample()

    def _sample(self, *, starting: bool = False) -> None:
        for process in self._processes():
            with suppress(psutil.Error):
                key = (process.pid, process.create_time())
                times = process.cpu_times()
                spent = times.user + times.system
                # a process that came later has spent all it has for this block
                self._first.setdefault(key, spent if starting else 0.0)
                self._last[key] = spent

    def _processes(self) -> list[psutil.Process]:
        return [self._own, *self._own.children(recursive=True)]


def memory_bytes(field: str) -> int:
    """A line of Linux's account of this process; `ru_maxrss` would start from the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def seconds_of_ray() -> dict[int, tuple[str, float]]:
    """Command line and processor time of Ray's processes, by id: Ray renames one with each task."""
    found = {}
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        line = " ".join(process.info["cmdline"] or []).strip()
        if line.startswith("ray::") or "/raylet" in line or "/gcs_server" in line:
            times = process.info["cpu_times"]
            found[process.pid] = (line, times.user + times.system)
    return found
