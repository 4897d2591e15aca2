"""One rank of a group some of whose resume states cannot be written."""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from cluster.settings import Place
from pipelines.worker.job import Stopped
from pipelines.worker.survival import Survival
from storage.pieces import Piece
from tests.storage.support.full_disk import full_disk

FIRST, SECOND, THIRD = 5, 10, 15


def pieces(rank: int, *, bad: bool = False, count: int = 2) -> list[Piece]:
    values = torch.full((count,), float("nan") if bad else 1.0)
    return [("weights/w", (2 * count,), count * rank, values)]


def not_finite(survival: Survival, rank: int, attempt: Path) -> None:
    survival.save(SECOND, pieces(rank, bad=rank == 1), [])


def full(survival: Survival, rank: int, attempt: Path) -> None:
    with full_disk(1 << 16) if rank == 1 else nullcontext():
        survival.save(SECOND, pieces(rank, count=1 << 16), [])
        survival._saver.settle()  # the limit is this process's: its thread must be done


def uncommitted(survival: Survival, rank: int, attempt: Path) -> None:
    """Both parts are written, and rank 0 alone meets what is wrong: a folder of that name."""
    (attempt / f"resume/step-{SECOND:08d}/manifest.json").mkdir(parents=True, exist_ok=True)
    survival.save(SECOND, pieces(rank), [])


FAULTS: dict[str, Callable[[Survival, int, Path], None]] = {
    "not_finite": not_finite,
    "full": full,
    "uncommitted": uncommitted,
}


def outcome(fault: str, rank: int, world: int, attempt: Path) -> dict[str, object]:
    """Save, meet the fault, save again: what the third save raised, and after how long."""
    job: Any = SimpleNamespace(attempt_uri=str(attempt), place=Place(hang_seconds=600))
    survival = Survival(job, rank=rank, world_size=world, device=torch.device("cpu"))
    survival.save(FIRST, pieces(rank), [])
    FAULTS[fault](survival, rank, attempt)
    began = time.monotonic()
    try:
        survival.save(THIRD, pieces(rank), [])
        stopped = None
    except Stopped as stop:
        stopped = str(stop)
    survival.end()
    return {"stopped": stopped, "seconds": time.monotonic() - began}


def main(rank: int, world: int, port: int, folder: Path) -> None:
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    found = {fault: outcome(fault, rank, world, folder / fault) for fault in FAULTS}
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
