"""Run packing tasks on Ray: on the cluster of RAY_ADDRESS, else on a local Ray.

Starting Ray takes some seconds, so small datasets are packed in this process.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from storage.errors import Unavailable
from storage.pack.execute import Item, Result, Run, in_turn

WORTH_RAY_BYTES = 2 << 30
"""For less work, or a single task, Ray takes longer to start (5 to 10 seconds) than it saves: one
process packs 130 MiB/s of photographs."""
_AHEAD = 2
"""Tasks submitted per CPU. The second one waits, so that no CPU is idle and an autoscaler sees
demand."""
_RETRIES = 3

_task: tuple[str, Callable[[Any], Any]] | None = None
"""In a worker: the newest task and its object's id, so that it is unpickled once per process."""


def on_ray(
    task: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    work_bytes: int,
    otherwise: Run = in_turn,
) -> Iterable[Result]:
    """Run tasks: implements `storage.pack.execute.Run`. `otherwise` runs work too small for Ray.

    Raises what a task raised, and Unavailable if a task's process died after all retries.
    """
    if len(items) < 2 or work_bytes < WORTH_RAY_BYTES:
        yield from otherwise(task, items, work_bytes=work_bytes)
        return
    from pipelines.cli.ray_session import ray_session  # its imports take seconds

    with ray_session(verbose=False):
        yield from _on_ray(task, items)


def _on_ray(task: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    decorate: Any = ray.remote(
        num_cpus=1,
        max_retries=_RETRIES,
        retry_exceptions=[Unavailable],  # type: ignore[arg-type]  # Ray's stub knows bool only
        scheduling_strategy="SPREAD",
    )
    remote = decorate(_call)
    shared = ray.put(task)
    left = iter(items)
    running: list[Any] = []
    try:
        while True:
            room = int(_AHEAD * ray.cluster_resources().get("CPU", 1)) - len(running)
            running += [remote.remote([shared], item) for item in islice(left, max(room, 0))]
            if not running:
                return
            done, running = ray.wait(running, num_returns=1)
            yield ray.get(done[0])
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise Unavailable(f"a packing task was lost {_RETRIES + 1} times: {reason}") from None
    finally:
        for reference in running:
            ray.cancel(reference)


def _call(shared: list[Any], item: Any) -> Any:
    """Run the task for one item, in a worker."""
    global _task
    import ray

    number = shared[0].hex()
    if _task is None or _task[0] != number:
        _task = (number, ray.get(shared[0]))
    return _task[1](item)
