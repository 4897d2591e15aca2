"""Train a tiny network under DeepSpeed in processes of its own, and the same by plain torch."""

import json
import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import vit
from storage.pieces import commit_parts, open_pieces, write_part
from storage.tensors import save_tensors
from vit.trained import freeze

GLOBAL_BATCH, STEPS, BEST, BREAK, DECAY = 12, 6, 1, 3, 0.8
CASES = [("float32", level) for level in (0, 1, 2, 3)] + [
    ("bfloat16", level) for level in (1, 2, 3)
]
TRAIN = {"partly": "blocks 1..", "lora": "lora 2 qkv,fc1"}
"""What is trained of the small ViT: a leaf module of level 3 whose input needs no gradient; and
adapters, which the layers have that ZeRO divides."""
WHOLE = ("lamb", "muon")
"""Optimizers whose step looks at whole tensors; the small ViT is trained as a whole by them."""
PARTLY = vit.ViTConfig(
    image_size=8, patch_size=4, width=12, depth=2, heads=2, mlp_dim=15, num_classes=5, pool="gap"
)


def build(part: str = "", *, fused: bool = False) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network that is trained by AdamW, or a ViT: `TRAIN[part]` of it, or by an optimizer."""
    if part:
        vision = vit.build_model(PARTLY, seed=0)
        nn.init.normal_(vision.head.weight, std=0.3, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]  # it has classes
        freeze(vision, TRAIN.get(part, "all"))
        for name, parameter in vision.named_parameters():
            if name.endswith("lora_b"):  # at 0 the other matrix has no gradient in the first step
                nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(2))
        # eps: Adam takes the rounding of gradients that are zero (keys' biases) for gradients
        name: Any = part if part in WHOLE else "adamw"
        optim = vit.OptimConfig(name=name, weight_decay=0.1, layer_decay=0.5, eps=1e-3)
        groups = vit.param_groups(vision, optim)
        return vision, vit.build_optimizer(groups, optim, fused=fused)
    # 7 and 5: sizes that two workers do not divide
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 15), nn.GELU(), nn.Linear(15, 5))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    return model, torch.optim.AdamW(groups, lr=0.0, fused=fused)


def batch(step: int, part: str = "") -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    shape = (3, 8, 8) if part else (7,)
    images = torch.randn(GLOBAL_BATCH, *shape, generator=generator)
    return images, torch.randint(0, 5, (GLOBAL_BATCH,), generator=generator)


def learning_rate(step: int) -> float:
    return 0.02 / (step + 1)


@lru_cache
def plain_torch(part: str = "") -> tuple[list[float], dict[str, Tensor]]:
    """Losses of every step and of the average at last; the final weights and average by name."""
    model, optimizer = build(part)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        images, labels = batch(step, part)
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 0.5)
        optimizer.step()
        losses.append(float(loss.detach()))
        for name, p in model.named_parameters():
            average[name] = DECAY * average[name] + (1 - DECAY) * p.detach()
    copy, _ = build(part)
    copy.load_state_dict(average)
    losses.append(loss_of(copy, *batch(0, part)))
    final = {f"weights/{name}": p.detach() for name, p in model.named_parameters()}
    return losses, final | {f"average/{name}": value for name, value in average.items()}


def loss_of(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float(nn.functional.cross_entropy(network(images), labels).detach())


def forget(model: nn.Module) -> None:
    for parameter in model.parameters():
        nn.init.constant_(parameter, math.nan)


def read_state(folder: Path) -> dict[str, Tensor]:
    with open_pieces(str(folder)) as state:
        return dict(state)


def run(
    case: tuple[str, int], first: int, last: int, saved: Path | None, to: Path, part: str = ""
) -> list[float]:
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
    model, optimizer = build(part, fused=precision == "bfloat16")  # as on a GPU
    leaves = ("vit.blocks.Block",) if part else ()
    zero = Zero(level=level)  # type: ignore[arg-type]  # one of CASES
    config = zero_config(zero, plan, precision=precision, clip_norm=0.5, leaf_classes=leaves)  # type: ignore[arg-type]
    if rank or saved is not None:  # as `stage_network(fresh=False)` leaves it
        forget(model)
    if saved is None:
        given = {name: p.detach().clone() for name, p in model.named_parameters()}
        engine = build_engine(model, optimizer, config, average=True)
        resume_state.set_masters(engine, given)
    else:
        with open_pieces(str(saved), reader=rank, readers=world) as state:
            if rank == 0:  # the others get them from it
                model.load_state_dict(resume_state.module_weights(state))
            engine = build_engine(model, optimizer, config, average=True)
            resume_state.restore(engine, state, step=first)
            kept = Snapshot.read(engine, state)
    store(engine, to.with_name(f"{to.name}-start"))
    losses = []
    for step in range(first, last):
        if step == BEST:
            kept = Snapshot.of(engine)
            store(engine, to.with_name(f"{to.name}-best"))
        images, labels = (part.chunk(world)[rank] for part in batch(step, part))
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
    copy, _ = build(part)
    forget(copy)
    resume_state.fill_with_average(engine, copy)
    losses.append(loss_of(copy, *batch(0, part)))
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
        for part in ("", *TRAIN):
            kind = f"{part}-{name}" if part else name
            report[kind] = run(case, 0, STEPS, None, folder / f"{kind}-w{world}", part)
            if world == 2:
                run(case, 0, BREAK, None, folder / f"{kind}-half", part)
    dist.barrier()
    for case in CASES:  # continue what two workers saved, at every level of the same precision
        for precision, level in CASES:
            if precision == case[0]:
                half = folder / f"{precision}-{level}-half"
                name = f"{precision}-{level}-to-{case[1]}"
                end = folder / f"{name}-w{world}"
                report[name] = run(case, BREAK, STEPS, half, end)
        for part in TRAIN if world == 1 else ():
            name = f"{part}-{case[0]}-{case[1]}"
            end = folder / f"{name}-resumed"
            run(case, BREAK, STEPS, folder / f"{name}-half", end, part)
    if rank == 0:
        (folder / f"report-w{world}.json").write_text(json.dumps(report))
