"""How independent tasks are carried out: here one after the other; `pipelines` hands in Ray."""

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
        """`work_bytes`: about how much all tasks read, to judge whether workers are worth starting.

        Task, items and results pickle. What a task raises is raised here.
        """
        ...


def in_turn(
    task: Callable[[Item], Result], items: Sequence[Item], *, work_bytes: int
) -> Iterable[Result]:
    """In this process, in the order of the items."""
    return map(task, items)


def in_threads(
    task: Callable[[Item], Result], items: Sequence[Item], *, work_bytes: int
) -> Iterable[Result]:
    """In this process, some at a time: for tasks that wait for a network."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(task, items)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How far it got: told before the first task and after each."""

    unit: Literal["images", "MiB"]
    done: float
    """Units done, those included that an earlier run had done."""
    total: float
    found: float
    """Units that an earlier run, which was killed, had done."""
    shards: int
    total_shards: int
    found_shards: int


Progress = Callable[[Tally], None]


def silent(tally: Tally) -> None:
    """Tells nobody."""
