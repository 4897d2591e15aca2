"""The DeiT-III recipes say what the paper's table says, and train."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.recipes import find_recipe
from pipelines.recipes.deit3 import DEIT3
from pipelines.recipes.general import AUGREG, GENERAL, PROBE
from pipelines.recipes.objectives import stage_network, stage_trained_parameters
from tests.cluster.support.groups import run_group
from tests.pipelines.support import recipe_worker
from vit import ViTConfig

EPOCH = 625
"""Steps of an epoch of ImageNet-1k at a batch of 2048."""


@pytest.mark.parametrize("recipe", DEIT3, ids=lambda recipe: recipe.name)
def test_pre_training_has_the_numbers_of_table_1(recipe) -> None:
    stage = recipe.stages[0]
    assert find_recipe(recipe.name) is recipe
    assert (stage.steps, stage.global_batch) == (800 * EPOCH, 2048)
    optim = stage.optim
    assert (optim.name, optim.peak_lr, optim.weight_decay) == ("lamb", 3e-3, 0.02)
    assert (optim.schedule, optim.warmup_steps, optim.clip_norm) == ("cosine", 5 * EPOCH, 1.0)
    augment = stage.augment
    assert (augment.mixup, augment.cutmix, augment.color_jitter) == (0.8, 1.0, 0.3)
    assert augment.three_augment
    assert not augment.randaugment_layers
    assert not augment.random_erasing
    assert (stage.loss, stage.label_smoothing) == ("bce", 0.0)
    assert (stage.data.crop, stage.data.eval_fraction) == ("random", 1.0)
    assert isinstance(stage.model, ViTConfig)
    assert (stage.model.layer_scale, stage.model.layer_scale_init) == (True, 1e-4)
    assert (stage.model.gelu, stage.model.dropout) == ("exact", 0.0)


def test_sizes_and_rates_of_stochastic_depth_are_the_authors() -> None:
    found = {
        recipe.name: [(stage.image_size, stage.model.drop_path) for stage in recipe.stages]  # pyright: ignore[reportAttributeAccessIssue]
        for recipe in DEIT3
    }
    assert found == {
        "deit3-s16": [(224, 0.05)],
        "deit3-b16": [(192, 0.2), (224, 0.2)],
        "deit3-l16": [(192, 0.45), (224, 0.45)],
        "deit3-h14": [(154, 0.6), (224, 0.55)],
    }
    parameters = {r.name: stage_trained_parameters(r.stages[-1]) for r in DEIT3}
    assert {name: round(count / 1e5) / 10 for name, count in parameters.items()} == {
        "deit3-s16": 22.1, "deit3-b16": 86.6, "deit3-l16": 304.4, "deit3-h14": 632.1
    }  # fmt: skip


def test_fine_tuning_is_twenty_epochs_of_adamw_at_one_rate() -> None:
    stage = find_recipe("deit3-b16").stage("finetune")
    assert (stage.steps, stage.global_batch) == (20 * 2502, 512)
    assert (stage.optim.name, stage.optim.peak_lr, stage.optim.weight_decay) == ("adamw", 1e-5, 0.1)
    assert (stage.loss, stage.label_smoothing, stage.augment.randaugment_magnitude) \
        == ("softmax", 0.1, 9)  # fmt: skip


def test_every_block_is_dropped_at_the_same_rate() -> None:
    stage = recipe_worker.small(find_recipe("deit3-b16").stages[0])
    blocks = stage_network(replace(stage, model=replace(stage.model, depth=4))).blocks
    assert {block.drop_path.rate for block in blocks} == {0.2}  # pyright: ignore[reportGeneralTypeIssues]


def test_each_stage_trains_two_steps(tmp_path: Path) -> None:
    """LAMB, mixed targets and 3-Augment in DeepSpeed's engine: one process, and no Ray."""
    run_group(recipe_worker.main, 1, tmp_path, seconds=120)
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report) == 7
    for name, (losses, moved) in report.items():
        expected = math.log(2) if name.endswith("pretrain") else math.log(recipe_worker.CLASSES)
        assert losses[0] == pytest.approx(expected, rel=1e-3), name  # of a head of zeros
        assert math.isfinite(losses[1]), name
        assert losses[1] != losses[0]
        assert moved > 0, name


def test_augreg_finetuning_is_the_plain_sgd_of_its_paper() -> None:
    stage = AUGREG.stages[0]
    optim = stage.optim
    assert (optim.name, optim.momentum, optim.weight_decay) == ("sgd", 0.9, 0.0)
    assert (optim.clip_norm, optim.schedule, stage.global_batch) == (1.0, "cosine", 512)
    assert (stage.label_smoothing, stage.keep, stage.data.area) == (0.0, "last", (0.05, 1.0))
    assert len({GENERAL.stages[0], AUGREG.stages[0], PROBE.stages[0]}) == 3
