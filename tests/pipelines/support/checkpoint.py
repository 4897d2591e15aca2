"""Weights without training, of which each class is somebody's answer."""

from dataclasses import asdict
from typing import Any

import torch

import vit
from pipelines.recipes.fingerprint import fingerprint, plain
from pipelines.recipes.stage import Stage
from storage import weights
from storage.dataset import load_dataset
from storage.uri import join


def random_weights(stage: Stage, *, seed: int) -> dict[str, torch.Tensor]:
    """Fresh weights but for the head, which would be zeros."""
    tensors = vit.build_model(stage.model, seed=seed).state_dict()
    generator = torch.Generator().manual_seed(seed)
    tensors["head.weight"] = torch.randn(tensors["head.weight"].shape, generator=generator)
    return tensors


def commit_stage(
    storage_root: str, stage: Stage, data_root: str, *, average: bool = False, run: str = "digits"
) -> dict[str, Any]:
    """Commit the stage as if it had been trained: live weights of seed 1, average of seed 2.

    Returns its manifest, and its place as `uri`.
    """
    digest = load_dataset(join(data_root, stage.data.dataset)).digest
    name = fingerprint(stage, dataset_digest=digest, parent=None)
    manifest = {
        "stage": plain(asdict(stage)),
        "fingerprint": name,
        "mlflow_run_id": "m",
        "step": stage.steps,
    }
    uri = join(storage_root, run, stage.name, name)
    ema = random_weights(stage, seed=2) if average else None
    return weights.commit(uri, random_weights(stage, seed=1), manifest, ema=ema) | {"uri": uri}
