"""Two steps of each DeiT-III stage, with a small model, from encoded images to stepped weights.

One process, and no Ray.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cluster import resume_state
from cluster.batching import plan_batch
from cluster.engine import build_engine, prepare_worker
from cluster.settings import Zero
from cluster.zero import zero_config
from pipelines.recipes.deit3 import DEIT3
from pipelines.recipes.objectives import stage_network, stage_objective
from pipelines.recipes.stage import Stage
from pipelines.worker.step import train_step
from storage.augment import augment_image, mix_draws
from storage.decode import decode
from tests.storage.support.images import encoded, gradient
from vit import ViTConfig, build_optimizer, param_groups

BATCH, CLASSES = 8, 5


def small(stage: Stage) -> Stage:
    """The stage with a network and a batch of CPU size, without warm-up."""
    model = stage.model
    assert isinstance(model, ViTConfig)
    size = {"width": 24, "depth": 2, "heads": 2, "mlp_dim": 48, "num_classes": CLASSES}
    return replace(
        stage,
        model=replace(model, image_size=2 * model.patch_size, **size),  # type: ignore[arg-type]
        optim=replace(stage.optim, warmup_steps=0),
        global_batch=BATCH,
        steps=4,
    )


def batch_of(stage: Stage, step: int) -> dict[str, Tensor]:
    index = np.arange(BATCH) + BATCH * step
    visit = np.zeros_like(index)
    crop = stage.data.train_crop(stage.image_size)
    images: list[np.ndarray] = []
    for position in index.tolist():
        key = {"seed": 0, "epoch": 0, "index": position}
        data = encoded(gradient(40 + position, 50), "PNG")
        images.append(augment_image(decode(data, crop, **key), stage.augment, **key))
    draws = mix_draws(stage.augment, seed=0, epoch=visit, index=index, side=stage.image_size)
    columns = {"image": np.stack(images), "label": index % CLASSES, "index": index, "visit": visit}
    return {name: torch.from_numpy(each) for name, each in (columns | {"mix": draws}).items()}


def trained(stage: Stage) -> tuple[list[float], float]:
    """Losses of two steps, and how far the weights went."""
    model, plan = stage_network(stage), plan_batch(BATCH, workers=1, max_micro_batch=4, even=True)
    given = {name: each.detach().clone() for name, each in model.named_parameters()}
    optimizer = build_optimizer(param_groups(model, stage.optim), stage.optim)
    clip = stage.optim.clip_norm
    config = zero_config(Zero(level=1), plan, precision="bfloat16", clip_norm=clip)
    engine = build_engine(model, optimizer, config)
    resume_state.set_masters(engine, given)
    done = [
        train_step(
            batch_of(stage, step),
            step,
            stage=stage,
            objective=stage_objective(stage),
            engine=engine,
            plan=plan,
            device=torch.device("cpu"),
            dtype=torch.bfloat16,
        )
        for step in range(2)
    ]
    after = resume_state.gather_weights(engine)
    moved = sum(float((after[name] - value).norm()) for name, value in given.items())
    engine.destroy()
    return [float(each.loss) for each in done], moved


def main(rank: int, world: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    prepare_worker(rank=rank, local_rank=rank, world_size=world, gpu=False, verbose=False)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    report = {
        f"{recipe.name}/{stage.name}": trained(small(stage))
        for recipe in DEIT3
        for stage in recipe.stages
    }
    (folder / "report.json").write_text(json.dumps(report))
