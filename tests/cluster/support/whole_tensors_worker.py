"""Train the small ViT by optimizers that look at whole tensors, in processes of their own."""

import json
from pathlib import Path

import torch
import torch.distributed as dist

from tests.cluster.support.zero_worker import BREAK, STEPS, WHOLE, run

CASES = [("float32", 0), ("float32", 1), ("float32", 2), ("float32", 3), ("bfloat16", 1)]
RESUMED = [(1, 2), (2, 3), (3, 0)]
"""ZeRO levels in float32: of three workers that saved, and of those that continue."""


def main(rank: int, world: int, port: int, folder: Path) -> None:
    from cluster.engine import prepare_worker

    torch.set_num_threads(1)
    prepare_worker(rank=rank, local_rank=rank, world_size=world, gpu=False, verbose=False)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    report: dict[str, list[float]] = {}
    for optimizer in WHOLE:
        for precision, level in CASES:
            name = f"{optimizer}-{precision}-{level}"
            end = folder / f"{name}-w{world}"
            report[name] = run((precision, level), 0, STEPS, None, end, optimizer)
        for saved_at, level in RESUMED:
            half = folder / f"{optimizer}-{saved_at}-half"
            if world == 3:
                run(("float32", saved_at), 0, BREAK, None, half, optimizer)
            else:
                end = folder / f"{optimizer}-{saved_at}-to-{level}"
                run(("float32", level), BREAK, STEPS, half, end, optimizer)
    if rank == 0:
        (folder / f"report-w{world}.json").write_text(json.dumps(report))
