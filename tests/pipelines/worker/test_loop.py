"""What a worker's step depends on."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.recipes.digits import PRETRAIN
from pipelines.recipes.stage import Stage
from pipelines.worker.loop import Worker
from vit import ViTConfig


def keys_of(stage: Stage, rank: int, batch: dict[str, Tensor], step: int) -> Tensor | None:
    worker: Any = SimpleNamespace(
        job=SimpleNamespace(stage=stage), rank=rank, device=torch.device("cpu")
    )
    return Worker.mask_keys(worker, batch, step)


@pytest.fixture
def dropping() -> Stage:
    assert isinstance(PRETRAIN.model, ViTConfig)
    return replace(PRETRAIN, model=replace(PRETRAIN.model, dropout=0.1))


def test_what_is_dropped_of_a_sample_does_not_depend_on_its_worker(dropping: Stage) -> None:
    batch = {"index": torch.randperm(64), "epoch": torch.arange(64) // 50}
    whole = keys_of(dropping, 0, batch, step=9)
    assert whole is not None
    assert len(whole.unique()) == 64
    for rank in range(4):
        share = {name: column.chunk(4)[rank] for name, column in batch.items()}
        found = keys_of(dropping, rank, share, step=9)
        assert found is not None
        assert torch.equal(found, whole.chunk(4)[rank])
    other = keys_of(dropping, 0, batch, step=10)
    assert other is not None
    assert not torch.isin(other, whole).any()


def test_a_model_that_drops_nothing_is_asked_for_nothing() -> None:
    assert keys_of(PRETRAIN, 0, {}, step=0) is None
