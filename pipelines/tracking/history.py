"""What an attempt's run holds already: so that steps repeated after a rollback are logged once.

Values of a repeated step equal the first ones (bit for bit at the same worker count), so the first
ones stay. MLflow itself would keep both.
"""

from collections.abc import Iterable, Mapping, Sequence

RESTARTS, LOST_STEPS = "train/restarts", "train/lost_steps"

MetricPoint = tuple[str, float, int, int]
"""Name, value, milliseconds since 1970, step."""


class History:
    """The highest step of each metric, and the worker group's restarts."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}
        self._value: dict[str, float] = {}
        self._reached = 0

    def carry_over(self, points: Iterable[MetricPoint]) -> None:
        """Take in what was logged before, in any order."""
        for name, value, _, step in points:
            if step >= self._highest.get(name, -1):
                self._highest[name], self._value[name] = step, value
            if name.startswith("train/"):
                self._reached = max(self._reached, step)

    def new(self, records: Sequence[Mapping[str, float]], *, now_ms: int) -> list[MetricPoint]:
        """The points of the records (each has its `step`) that are not logged yet."""
        points: list[MetricPoint] = []
        for record in records:
            step = int(record["step"])
            self._reached = step
            for name, value in record.items():
                if name != "step" and step > self._highest.get(name, -1):
                    self._highest[name] = step
                    points.append((name, float(value), now_ms, step))
        return points

    def start(self, step: int, *, now_ms: int) -> list[MetricPoint]:
        """The points of a worker group that starts at `step`: how often that was not the first
        time, and how many steps all these starts repeated.

        A step counts as lost where it had been reported. After the death of the driver, that is the
        highest step ever reported, also where it died while repeating.
        """
        restarts = self._value.get(RESTARTS, -1.0) + 1
        lost = self._value.get(LOST_STEPS, 0.0) + max(0, self._reached - step)
        # At the highest step yet: the newest count is the one that MLflow shows.
        at = max(self._reached, step, self._highest.get(RESTARTS, 0))
        self._reached = step
        points: list[MetricPoint] = [
            (RESTARTS, restarts, now_ms, at),
            (LOST_STEPS, lost, now_ms, at),
        ]
        for name, value, _, _ in points:
            self._highest[name], self._value[name] = at, value
        return points

    def next_step(self, prefix: str) -> int:
        """The step after the last of the metrics that begin with `prefix`."""
        steps = [step for name, step in self._highest.items() if name.startswith(prefix)]
        return max(steps, default=-1) + 1
