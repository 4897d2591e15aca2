"""What a training step depends on."""

from dataclasses import replace

import pytest
import torch

from pipelines.recipes.digits import PRETRAIN
from pipelines.recipes.stage import Stage
from pipelines.worker.step import TRAINING, VALIDATION, hiding_keys, mask_keys
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


def test_what_is_hidden_follows_from_seed_epoch_and_index_and_meets_no_other_keys(
    dropping: Stage,
) -> None:
    batch = {"index": torch.arange(64), "visit": torch.arange(64) // 50}
    whole = hiding_keys(batch, TRAINING, dropping, CPU)
    for rank in range(4):
        share = {name: column.chunk(4)[rank] for name, column in batch.items()}
        assert torch.equal(hiding_keys(share, TRAINING, dropping, CPU), whole.chunk(4)[rank])
    others = [
        hiding_keys(batch, VALIDATION, dropping, CPU),
        hiding_keys(batch, TRAINING, replace(dropping, seed=1), CPU),
        hiding_keys({**batch, "visit": batch["visit"] + 7}, TRAINING, dropping, CPU),
        *(mask_keys(batch, step, dropping, CPU) for step in range(3)),
    ]
    for other in others:
        assert other is not None
        assert not torch.isin(other, whole).any()
