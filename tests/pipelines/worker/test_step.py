"""What a training step depends on."""

from dataclasses import replace

import pytest
import torch

from pipelines.recipes.digits import PRETRAIN
from pipelines.recipes.stage import Stage
from pipelines.worker.step import mask_keys
from vit import ViTConfig

CPU = torch.device("cpu")


@pytest.fixture
def dropping() -> Stage:
    assert isinstance(PRETRAIN.model, ViTConfig)
    return replace(PRETRAIN, model=replace(PRETRAIN.model, dropout=0.1))


def test_what_is_dropped_of_a_sample_does_not_depend_on_its_worker(dropping: Stage) -> None:
    batch = {"index": torch.randperm(64), "visit": torch.arange(64) // 50}
    whole = mask_keys(batch, 9, dropping, CPU)
    assert whole is not None
    assert len(whole.unique()) == 64
    for rank in range(4):
        share = {name: column.chunk(4)[rank] for name, column in batch.items()}
        found = mask_keys(share, 9, dropping, CPU)
        assert found is not None
        assert torch.equal(found, whole.chunk(4)[rank])
    other = mask_keys(batch, 10, dropping, CPU)
    assert other is not None
    assert not torch.isin(other, whole).any()


def test_a_model_that_drops_nothing_is_asked_for_nothing() -> None:
    assert mask_keys({}, 0, PRETRAIN, CPU) is None
