"""Run independent tasks: here one after the other or in threads; `pipelines` passes in Ray."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

_THREADS = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


class Run(Protocol):
    """Calls a task for every item and yields the results as they come, in any order."""

    def __call__(
        self, task: Callable[[Item], Result], items: Sequence[Item], *, work_bytes: int
    ) -> Iterable[Result]:
        """Run the task for every item.

        `work_bytes` is about how much all tasks read, to judge whether starting workers pays off.
        Task, items and results must pickle. An error of a task is raised here.
        """
        ...


def in_turn(
    task: Callable[[Item], Result], items: Sequence[Item], *, work_bytes: int
) -> Iterable[Result]:
    """Run the tasks in this process, in the order of the items."""
    return map(task, items)


def in_threads(
    task: Callable[[Item], Result], items: Sequence[Item], *, work_bytes: int
) -> Iterable[Result]:
    """Run the tasks in threads of this process: for tasks that wait for a network."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(task, items)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Progress, reported before the first task and after each."""

    unit: Literal["images", "MiB"]
    done: float
    """Units done, including those of an earlier run."""
    total: float
    found: float
    """Units done by an earlier run that was killed."""
    shards: int
    total_shards: int
    found_shards: int


Progress = Callable[[Tally], None]


def silent(tally: Tally) -> None:
    """Ignore progress."""
