"""Train a tiny network under DeepSpeed in spawned processes, and the same by plain torch.

Run as `python zero_worker.py RANK WORLD PORT FOLDER`, so that each world size has fresh processes.
"""

import json
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from storage.pieces import commit_parts, open_pieces, write_part
from storage.tensors import save_tensors

GLOBAL_BATCH, STEPS, BEST, BREAK, DECAY = 12, 6, 1, 3, 0.8
CASES = [("float32", level) for level in (0, 1, 2, 3)] + [
    ("bfloat16", level) for level in (1, 2, 3)
]


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    # 7 and 5: sizes that two workers do not divide
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 15), nn.GELU(), nn.Linear(15, 5))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    return model, torch.optim.AdamW(groups, lr=0.0)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.randn(GLOBAL_BATCH, 7, generator=generator)
    return images, torch.randint(0, 5, (GLOBAL_BATCH,), generator=generator)


def learning_rate(step: int) -> float:
    return 0.02 / (step + 1)


def plain_torch() -> tuple[list[float], dict[str, Tensor]]:
    """Losses of every step and of the average at last; the final weights and average by name."""
    model, optimizer = build()
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        images, labels = batch(step)
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(float(loss.detach()))
        for name, p in model.named_parameters():
            average[name] = DECAY * average[name] + (1 - DECAY) * p.detach()
    copy, _ = build()
    copy.load_state_dict(average)
    losses.append(float(nn.functional.cross_entropy(copy(batch(0)[0]), batch(0)[1]).detach()))
    final = {f"weights/{name}": p.detach() for name, p in model.named_parameters()}
    return losses, final | {f"average/{name}": value for name, value in average.items()}


def read_state(folder: Path) -> dict[str, Tensor]:
    with open_pieces(str(folder)) as state:
        return dict(state)


def run(case: tuple[str, int], first: int, last: int, saved: Path | None, to: Path) -> list[float]:
    from cluster import resume_state
    from cluster.batching import plan_batch
    from cluster.engine import build_engine
    from cluster.settings import Zero
    from cluster.snapshot import Snapshot
    from cluster.zero import zero_config

    kept: Snapshot | None = None
    precision, level = case
    rank, world = dist.get_rank(), dist.get_world_size()
    plan = plan_batch(GLOBAL_BATCH, workers=world, max_micro_batch=3)
    model, optimizer = build()
    config = zero_config(Zero(level=level), plan, precision=precision, clip_norm=0.5)  # type: ignore[arg-type]  # level is one of CASES
    if saved is None:
        if rank:  # the weights of rank 0 are those that count
            nn.init.zeros_(model[0].weight)  # type: ignore[index]  # a Sequential
        given = {name: p.detach().clone() for name, p in model.named_parameters()}
        engine = build_engine(model, optimizer, config, average=True)
        resume_state.set_masters(engine, given)
        store(engine, to.with_name(f"{to.name}-start"))
    else:
        with open_pieces(str(saved), reader=rank, readers=world) as state:
            if rank == 0:  # the others get them from it
                model.load_state_dict(resume_state.module_weights(state))
            engine = build_engine(model, optimizer, config, average=True)
            resume_state.restore(engine, state, step=first)
            kept = Snapshot.read(engine, state)
    losses = []
    for step in range(first, last):
        if step == BEST:
            kept = Snapshot.of(engine)
            store(engine, to.with_name(f"{to.name}-best"))
        images, labels = (part.chunk(world)[rank] for part in batch(step))
        for group in resume_state.inner_optimizer(engine).param_groups:
            group["lr"] = learning_rate(step)
        total = torch.zeros(())
        for x, y in zip(images.split(plan.micro), labels.split(plan.micro), strict=True):
            logits = engine(x.to(torch.bfloat16) if precision == "bfloat16" else x)
            loss = nn.functional.cross_entropy(logits.float(), y)
            engine.backward(loss)
            engine.step()
            total += loss.detach() / plan.accumulation
        resume_state.update_average(engine, DECAY)
        dist.all_reduce(total)
        losses.append(float(total) / world)
    copy, _ = build()
    resume_state.fill_with_average(engine, copy)
    losses.append(float(nn.functional.cross_entropy(copy(batch(0)[0]), batch(0)[1]).detach()))
    assert kept is not None
    store(engine, to, kept.pieces(engine))
    kept.put_back(engine)
    gathered = {
        f"{kind}/{name}": value
        for kind in (resume_state.WEIGHTS, resume_state.AVERAGE)
        for name, value in resume_state.gather_weights(
            engine, None if kind == resume_state.WEIGHTS else kind
        ).items()
    }
    if rank == 0:
        save_tensors(gathered, to.with_name(f"{to.name}-committed.safetensors"))
    engine.destroy()
    return losses


def store(engine: Any, to: Path, more: Iterable[Any] = ()) -> None:
    """Commit the state of all ranks."""
    from cluster import resume_state

    rank, world = dist.get_rank(), dist.get_world_size()
    write_part(str(to), "t", rank, world, chain(resume_state.own_pieces(engine), more))
    dist.barrier()
    if rank == 0:
        assert commit_parts(str(to), "t", world, {})
    dist.barrier()


def main(rank: int, world: int, port: int, folder: Path) -> None:
    from cluster.engine import prepare_worker

    torch.set_num_threads(1)
    prepare_worker(rank=rank, local_rank=rank, world_size=world, gpu=False, verbose=False)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    report: dict[str, list[float]] = {}
    for case in CASES:
        name = f"{case[0]}-{case[1]}"
        report[name] = run(case, 0, STEPS, None, folder / f"{name}-w{world}")
        if world == 2:
            run(case, 0, BREAK, None, folder / f"{name}-half")
    dist.barrier()
    for case in CASES:  # continue what two workers saved, at every level of the same precision
        for precision, level in CASES:
            if precision == case[0]:
                half = folder / f"{precision}-{level}-half"
                name = f"{precision}-{level}-to-{case[1]}"
                end = folder / f"{name}-w{world}"
                report[name] = run(case, BREAK, STEPS, half, end)
    if rank == 0:
        (folder / f"report-w{world}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
