"""Remembers which steps MLflow already has, so that a step repeated after a restart is logged once.

A repeated step gives the same values (bit for bit at the same worker count), so the first ones are
kept. MLflow itself would keep both.
"""

from collections.abc import Iterable, Mapping, Sequence

RESTARTS, LOST_STEPS = "train/restarts", "train/lost_steps"

MetricPoint = tuple[str, float, int, int]
"""Name, value, milliseconds since 1970, step."""


class History:
    """The highest logged step of each metric, and the restarts of the worker group."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}
        self._value: dict[str, float] = {}
        self._reached = 0

    def carry_over(self, points: Iterable[MetricPoint]) -> None:
        """Take over points that were logged before, in any order."""
        for name, value, _, step in points:
            if step >= self._highest.get(name, -1):
                self._highest[name], self._value[name] = step, value
            if name.startswith("train/"):
                self._reached = max(self._reached, step)

    def new(self, records: Sequence[Mapping[str, float]], *, now_ms: int) -> list[MetricPoint]:
        """Return the points of the records (each has a `step`) that were not logged yet."""
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
        """Return the points to log when a worker group starts at `step`.

        They are the number of restarts so far, and the number of steps that these repeated. A step
        is lost if it was reported and is trained again. After the death of a driver the highest
        step ever reported counts, even if the driver died while repeating steps.
        """
        restarts = self._value.get(RESTARTS, -1.0) + 1
        lost = self._value.get(LOST_STEPS, 0.0) + max(0, self._reached - step)
        # MLflow shows the value of the highest step, so log the newest count there.
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
        """Return the step after the last one of the metrics that start with `prefix`."""
        steps = [step for name, step in self._highest.items() if name.startswith(prefix)]
        return max(steps, default=-1) + 1
