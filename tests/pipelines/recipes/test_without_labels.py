"""Stages that learn without labels: what they refuse, and the papers' numbers."""

from dataclasses import replace

import pytest

from pipelines.recipes import find_recipe
from pipelines.recipes.errors import MISTAKES, Mistake
from pipelines.recipes.fingerprint import fingerprint
from pipelines.recipes.objectives import (
    stage_cost,
    stage_network,
    stage_trained_parameters,
    stage_training_flops,
)
from pipelines.recipes.stage import Stage
from storage.augment import AugmentConfig
from vit.objectives import Masked, is_pretext

DIGITS = find_recipe("digits-mae").stages[0]


def name_of(stage: Stage) -> str:
    return fingerprint(stage, dataset_digest="d", parent=None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"augment": AugmentConfig(mixup=0.2)}, r"augment\.mixup 0\.2"),
        ({"label_smoothing": 0.1}, r"label_smoothing 0\.1"),
        ({"loss": "sigmoid"}, "loss sigmoid"),
        ({"train": "head"}, "train head"),
        ({"keep": "best"}, "metric to val/loss"),
    ],
)
def test_what_means_something_to_labels_alone_is_refused(
    change: dict[str, object], named: str
) -> None:
    with pytest.raises(Mistake, match=named):
        replace(DIGITS, **change)  # pyright: ignore[reportArgumentType]
    assert replace(DIGITS, keep="best", metric="val/loss").chooses


def test_a_classifier_is_told_to_leave_its_head_out() -> None:
    with pytest.raises(MISTAKES, match=r"wanted model\.num_classes 0, found 7"):
        replace(find_recipe("digits").stages[0], objective="mae")


def test_what_is_hidden_is_part_of_the_fingerprint_and_labels_keep_theirs() -> None:
    names = {
        name_of(stage)
        for stage in (
            DIGITS,
            replace(DIGITS, objective="masked-patch"),
            replace(DIGITS, masked=replace(DIGITS.masked, ratio=0.6)),
            replace(DIGITS, masked=Masked()),
        )
    }
    assert len(names) == 4
    assert name_of(find_recipe("digits").stages[0]) == "718eb30c2c293fdb"  # as before


def test_mae_trains_with_the_numbers_of_its_paper() -> None:
    pretrain, finetune = find_recipe("mae-b16").stages
    assert pretrain.optim.peak_lr == pytest.approx(2.4e-3)  # 1.5e-4 a batch of 256
    assert pretrain.optim.betas == (0.9, 0.95)
    assert pretrain.global_batch == 4096
    assert pretrain.steps == 800 * 312
    assert finetune.optim.peak_lr == pytest.approx(4e-3)
    assert finetune.optim.layer_decay == 0.75
    assert [find_recipe(f"mae-{size}").stages[1].steps // 1251 for size in ("b16", "l16", "h14")] \
        == [100, 50, 50]  # fmt: skip
    network = stage_network(replace(pretrain, model=replace(pretrain.model, depth=1)))
    assert sum(is_pretext(name) for name, _ in network.named_parameters()) > 8 * 12


def test_masked_patch_trains_with_the_numbers_of_its_paper() -> None:
    pretrain, finetune = find_recipe("masked-patch-b16").stages
    assert (pretrain.optim.peak_lr, pretrain.optim.warmup_steps) == (2e-4, 10_000)
    assert (pretrain.steps, pretrain.global_batch) == (1_000_000, 4096)
    assert finetune.model.num_classes == 1000
    assert finetune.parent == "pretrain"


def test_a_quarter_of_the_patches_costs_a_third_of_the_arithmetic() -> None:
    """L/16: the paper says 2.8 times faster than seeing all, with 8 blocks of 512."""
    mae = find_recipe("mae-l16").stages[0]
    whole = replace(mae, objective="classify", model=replace(mae.model, num_classes=1))
    assert stage_training_flops(whole) / stage_training_flops(mae) == pytest.approx(2.8, abs=0.5)
    assert stage_trained_parameters(mae) == stage_cost(mae).parameters > 303e6
