"""Groups of worker processes, as the ZeRO tests start them."""

import os
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from cluster.local.services import free_ports

_FORKSERVER = get_context("forkserver")


def run_group(
    main: Callable[[int, int, int, Path], None], world: int, folder: Path, *, seconds: float
) -> None:
    """`main(rank, world, port, folder)` in a process for each rank; they all must end well.

    Each is forked from a process that has imported DeepSpeed and done nothing else: the import
    takes longer than most groups.
    """
    (port,) = free_ports(1)
    _FORKSERVER.set_forkserver_preload(["tests.cluster.support.deepspeed_on_cpu"])
    errors = [folder / f"stderr-{world}-{rank}.txt" for rank in range(world)]
    workers = [
        _FORKSERVER.Process(target=_rank, args=(main, rank, world, port, folder, errors[rank]))
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    try:
        for worker, file in zip(workers, errors, strict=True):
            worker.join(seconds)
            assert worker.exitcode == 0, f"exit {worker.exitcode}: {file.read_text()[-3000:]}"
    finally:
        for worker in workers:  # the others of a group that failed wait for it
            worker.kill()


def _rank(
    main: Callable[[int, int, int, Path], None],
    rank: int,
    world: int,
    port: int,
    folder: Path,
    errors: Path,
) -> None:
    from cluster.engine import end_worker

    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    warnings.simplefilter("ignore")
    main(rank, world, port, folder)
    end_worker()
