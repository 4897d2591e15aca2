"""Groups of worker processes, as the ZeRO tests start them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.local.services import free_ports


def run_worker(main: Callable[[int, int, int, Path], None]) -> None:
    """`main(rank, world, port, folder)` from the command line of `run_group`."""
    from cluster.engine import end_worker

    rank, world, port = map(int, sys.argv[1:4])
    main(rank, world, port, Path(sys.argv[4]))
    end_worker()


def run_group(module: str, world: int, folder: Path, *, seconds: float) -> None:
    """`python -m module RANK WORLD PORT FOLDER` for each rank; they all must end well."""
    (port,) = free_ports(1)
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, *map(str, (rank, world, port, folder))],
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    for worker in workers:
        _, stderr = worker.communicate(timeout=seconds)
        assert worker.returncode == 0, stderr[-3000:]
