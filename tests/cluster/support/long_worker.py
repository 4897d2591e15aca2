"""Train a small ViT for 50 steps under DeepSpeed, one case after the other, and by plain torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

import vit
from cluster.settings import Zero, ZeroLevel

GLOBAL_BATCH, STEPS, CLIP, DECAY = 24, 50, 1.0, 0.9
OPTIM = vit.OptimConfig(peak_lr=1e-3, warmup_steps=10, weight_decay=0.05, clip_norm=CLIP)
CONFIG = vit.ViTConfig(
    image_size=16, patch_size=4, width=32, depth=2, heads=2, mlp_dim=64, num_classes=7
)


@dataclass(frozen=True)
class Case:
    """One way to train the same thing."""

    level: ZeroLevel
    offload: bool = False
    recompute: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def name(self) -> str:
        parts = [self.precision, f"zero{self.level}"]
        return "-".join(parts + ["offload"] * self.offload + ["recompute"] * self.recompute)


CASES = (
    [Case(level) for level in (0, 1, 2, 3)]
    + [Case(level, offload=True) for level in (1, 2, 3)]
    + [Case(level, recompute=True) for level in (0, 1, 2, 3)]
    + [Case(level, precision="bfloat16") for level in (1, 2, 3)]
    + [Case(level, offload=True, recompute=True, precision="bfloat16") for level in (1, 2, 3)]
)


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = vit.build_model(CONFIG, seed=0)
    head = model.get_submodule("head")
    nn.init.normal_(head.weight, std=0.1, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    return model, vit.build_optimizer(vit.param_groups(model, OPTIM), OPTIM)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.randn(GLOBAL_BATCH, 3, 16, 16, generator=generator)
    return images, torch.randint(0, 7, (GLOBAL_BATCH,), generator=generator)


def plain_torch() -> tuple[list[float], dict[str, Tensor]]:
    """Losses of every step, and the average of the weights at the end."""
    model, optimizer = build()
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = []
    for step in range(STEPS):
        vit.set_lr(optimizer.param_groups, vit.lr_at(step, STEPS, OPTIM))
        images, labels = batch(step)
        loss = vit.loss_fn("softmax", model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(float(loss.detach()))
        for name, p in model.named_parameters():
            average[name] = DECAY * average[name] + (1 - DECAY) * p.detach()
    return losses, average


def train(case: Case) -> tuple[list[float], dict[str, Tensor]]:
    from cluster import resume_state
    from cluster.batching import plan_batch
    from cluster.engine import build_engine
    from cluster.zero import zero_config

    rank, world = dist.get_rank(), dist.get_world_size()
    plan = plan_batch(GLOBAL_BATCH, workers=world, max_micro_batch=4)
    model, optimizer = build()
    model.set_grad_checkpointing(case.recompute)  # type: ignore[operator]
    zero = Zero(level=case.level, offload_optimizer=case.offload)
    leaves = ("vit.blocks.Block",)
    config = zero_config(zero, plan, precision=case.precision, clip_norm=CLIP, leaf_classes=leaves)
    engine = build_engine(model, optimizer, config, average=True)
    losses = []
    for step in range(STEPS):
        vit.set_lr(resume_state.inner_optimizer(engine).param_groups, vit.lr_at(step, STEPS, OPTIM))
        images, labels = (part.chunk(world)[rank] for part in batch(step))
        total = torch.zeros(())
        for x, y in zip(images.split(plan.micro), labels.split(plan.micro), strict=True):
            logits = engine(x.bfloat16() if case.precision == "bfloat16" else x).float()
            loss = vit.loss_fn("softmax", logits, y)
            engine.backward(loss)
            engine.step()
            total += loss.detach() / plan.accumulation
        resume_state.update_average(engine, DECAY)
        dist.all_reduce(total)
        losses.append(float(total) / world)
    average = resume_state.gather_weights(engine, resume_state.AVERAGE)
    engine.destroy()
    return losses, average


def main(rank: int, world: int, port: int, folder: Path) -> None:
    from cluster.engine import prepare_worker

    torch.set_num_threads(1)
    prepare_worker(rank=rank, local_rank=rank, world_size=world, gpu=False, verbose=False)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    _, expected = plain_torch() if rank == 0 else ([], {})
    found = {}
    for case in CASES:
        losses, average = train(case)
        if rank == 0:
            # Together: biases of keys have no gradient but rounding, which Adam makes steps of.
            whole = torch.cat([value.flatten() for value in expected.values()])
            gap = torch.cat([average[name].flatten() for name in expected]) - whole
            off = float(gap.norm() / whole.norm())
            found[case.name] = {"losses": losses, "average": off}
    if rank == 0:
        (folder / f"world-{world}.json").write_text(json.dumps(found))
