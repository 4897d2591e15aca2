"""Train a small ViT that drops elements and paths, once for each way to place it.

The folder gets the final weights.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

import vit
from cluster.settings import Zero, ZeroLevel

GLOBAL_BATCH, STEPS, SEED, CLIP = 16, 4, 7, 1.0
OPTIM = vit.OptimConfig(peak_lr=1e-3, warmup_steps=1, weight_decay=0.05, clip_norm=CLIP)
CONFIG = vit.ViTConfig(
    image_size=16,
    patch_size=4,
    width=32,
    depth=2,
    heads=2,
    mlp_dim=64,
    num_classes=7,
    dropout=0.1,
    drop_path=0.1,
)


@dataclass(frozen=True)
class Way:
    """What of `ray_config.yaml` a stage is trained under, the worker count aside."""

    level: ZeroLevel = 1
    micro: int = 8
    recompute: bool = False
    offload: bool = False

    @property
    def name(self) -> str:
        parts = [f"zero{self.level}", f"micro{self.micro}"]
        return "-".join(parts + ["recompute"] * self.recompute + ["offload"] * self.offload)


WAYS = [
    *(Way(level=level) for level in (0, 1, 2, 3)),
    *(Way(micro=micro) for micro in (2, 4)),
    *(Way(level=level, recompute=True) for level in (1, 3)),
    Way(offload=True),
]


def build() -> vit.ViT:
    """Fresh weights; the head's are not zero, so that every gradient is one from the first step."""
    model = vit.build_model(CONFIG, seed=0)
    head = model.get_parameter("head.weight")
    nn.init.normal_(head, std=0.1, generator=torch.Generator().manual_seed(1))
    return model


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and mask keys of the global batch of a step, in the order of the samples."""
    generator = torch.Generator().manual_seed(100 + step)
    images = torch.randn(GLOBAL_BATCH, 3, 16, 16, generator=generator)
    labels = torch.randint(0, 7, (GLOBAL_BATCH,), generator=generator)
    index = torch.arange(step * GLOBAL_BATCH, (step + 1) * GLOBAL_BATCH)
    epoch = torch.zeros_like(index)
    return images, labels, vit.sample_keys(seed=SEED, step=step, epoch=epoch, index=index)


def plain_torch() -> dict[str, Tensor]:
    """The weights without DeepSpeed, workers and micro-batches."""
    model = build()
    optimizer = vit.build_optimizer(vit.param_groups(model, OPTIM), OPTIM)
    for step in range(STEPS):
        vit.set_lr(optimizer.param_groups, vit.lr_at(step, STEPS, OPTIM))
        images, labels, keys = batch(step)
        optimizer.zero_grad()
        vit.loss_fn("softmax", model(images, keys), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def train(way: Way) -> dict[str, Tensor]:
    """The weights of rank 0 at the end; empty on the other ranks."""
    from cluster import resume_state
    from cluster.batching import plan_batch
    from cluster.engine import build_engine
    from cluster.zero import zero_config

    rank, world = dist.get_rank(), dist.get_world_size()
    plan = plan_batch(GLOBAL_BATCH, workers=world, max_micro_batch=way.micro)
    model = build()
    model.set_grad_checkpointing(way.recompute)
    config = zero_config(
        Zero(level=way.level, offload_optimizer=way.offload),
        plan,
        precision="float32",
        clip_norm=CLIP,
        leaf_classes=("vit.blocks.Block",),
    )
    optimizer = vit.build_optimizer(vit.param_groups(model, OPTIM), OPTIM)
    engine = build_engine(model, optimizer, config)
    for step in range(STEPS):
        vit.set_lr(resume_state.inner_optimizer(engine).param_groups, vit.lr_at(step, STEPS, OPTIM))
        share = (column.chunk(world)[rank].split(plan.micro) for column in batch(step))
        for images, labels, keys in zip(*share, strict=True):
            engine.backward(vit.loss_fn("softmax", engine(images, keys), labels))
            engine.step()
    weights = resume_state.gather_weights(engine)
    engine.destroy()
    return weights


def main(rank: int, world: int, port: int, folder: Path) -> None:
    from cluster.engine import prepare_worker

    torch.set_num_threads(1)
    prepare_worker(rank=rank, local_rank=rank, world_size=world, gpu=False, verbose=False)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    for way in WAYS:
        found = train(way)
        if rank == 0:
            save_file(found, folder / f"{way.name}-w{world}.safetensors")
