"""Stages committed without training: fresh weights under a real manifest."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

import vit
from pipelines.recipes.fingerprint import fingerprint, plain
from pipelines.recipes.stage import Stage
from storage import weights
from storage.dataset import load_dataset
from storage.uri import join


def commit_stage(
    storage_root: str,
    stage: Stage,
    data_root: str,
    *,
    run: str = "digits",
    parent: tuple[str, dict[str, Any]] | None = None,
    average: Mapping[str, torch.Tensor] | None = None,
    **more: Any,
) -> tuple[str, dict[str, Any]]:
    """Commit `stage` as a training run would; returns its place and manifest.

    Attention is made sharp: that of fresh weights is the same everywhere.
    """
    model = vit.build_model(stage.model, seed=stage.seed)
    generator = torch.Generator().manual_seed(stage.seed)
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.weight"):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    digest = load_dataset(join(data_root, stage.data.dataset)).digest
    before = parent[1] if parent else None
    name = fingerprint(
        stage, dataset_digest=digest, parent=before["fingerprint"] if before else None
    )
    uri = join(storage_root, run, stage.name, name)
    manifest = {
        "format_version": 1,
        "recipe": "digits",
        "run": run,
        "stage": plain(asdict(stage)),
        "fingerprint": name,
        "attempt": name,
        "parent": before
        and {
            "stage": before["stage"]["name"],
            "fingerprint": before["fingerprint"],
            "attempt": before["attempt"],
            "weights_sha256": before["files"]["weights.safetensors"]["sha256"],
            "mlflow_run_id": before["mlflow_run_id"],
        },
        "dataset": {"name": stage.data.dataset, "digest": digest},
        "mlflow_run_id": "",
        "git_commit": "c0ffee" * 6 + "c0ff",
        "versions": {"torch": "2.13.0"},
        "started": "2026-01-01T00:00:00+00:00",
        "step": stage.steps,
        "metrics": {"val/accuracy": 0.5, "val/loss": 1.0, "val/samples": 255},
        **more,
    }
    return uri, weights.commit(uri, model.state_dict(), manifest, ema=average)
