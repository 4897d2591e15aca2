"""The recipes say what the paper's tables say, and differ only in what the paper changes."""

from dataclasses import asdict

import pytest

from pipelines.recipes import PAPER, find_recipe
from pipelines.recipes.fingerprint import flatten
from pipelines.recipes.paper import BASELINE_S16, JFT_B16, ROWS, TASKS, finetune, paper_recipe
from pipelines.recipes.stage import Stage
from vit import BiTConfig, ViTConfig

# Table 3 of arXiv:2010.11929: epochs, base lr, decay, weight decay, dropout
TABLE_3 = {
    "vit-b16-jft": (7, 8e-4, "linear", 0.1, 0.0),
    "vit-b32-jft": (7, 8e-4, "linear", 0.1, 0.0),
    "vit-l32-jft": (7, 6e-4, "linear", 0.1, 0.0),
    "vit-l16-jft": (7, 4e-4, "linear", 0.1, 0.0),
    "vit-l16-jft-14ep": (14, 4e-4, "linear", 0.1, 0.0),
    "vit-h14-jft": (14, 3e-4, "linear", 0.1, 0.0),
    "bit-r50x1-jft": (7, 1e-3, "linear", 0.1, 0.0),
    "bit-r50x2-jft": (7, 1e-3, "linear", 0.1, 0.0),
    "bit-r101x1-jft": (7, 8e-4, "linear", 0.1, 0.0),
    "bit-r152x1-jft": (7, 6e-4, "linear", 0.1, 0.0),
    "bit-r152x2-jft": (7, 6e-4, "linear", 0.1, 0.0),
    "r50-vit-b32-jft": (7, 8e-4, "linear", 0.1, 0.0),
    "r50-vit-b16-jft": (7, 8e-4, "linear", 0.1, 0.0),
    "r50-vit-l32-jft": (7, 2e-4, "linear", 0.1, 0.0),
    "r50-vit-l16-jft": (7, 4e-4, "linear", 0.1, 0.0),
    "r50-vit-l16-jft-14ep": (14, 4e-4, "linear", 0.1, 0.0),
    "vit-b16-imagenet21k": (90, 1e-3, "linear", 0.03, 0.1),
    "vit-b32-imagenet21k": (90, 1e-3, "linear", 0.03, 0.1),
    "vit-l16-imagenet21k": (30, 1e-3, "linear", 0.03, 0.1),
    "vit-l16-imagenet21k-90ep": (90, 1e-3, "linear", 0.03, 0.1),
    "vit-l32-imagenet21k": (30, 1e-3, "linear", 0.03, 0.1),
    "vit-l32-imagenet21k-90ep": (90, 1e-3, "linear", 0.03, 0.1),
    "vit-b16-imagenet1k": (300, 3e-3, "cosine", 0.3, 0.1),
    "vit-b32-imagenet1k": (300, 3e-3, "cosine", 0.3, 0.1),
    "vit-l16-imagenet1k": (300, 3e-3, "cosine", 0.3, 0.1),
    "vit-l32-imagenet1k": (300, 3e-3, "cosine", 0.3, 0.1),
}
EPOCH_STEPS = {"jft300m": 73_974, "imagenet21k": 3_466, "imagenet1k": 312}  # at batch 4096


def changed(one: Stage, other: Stage) -> set[str]:
    """Dotted names of the fields that differ."""
    a, b = flatten(asdict(one)), flatten(asdict(other))
    return {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)}


def test_every_row_of_table_3_is_there() -> None:
    assert ROWS.keys() == TABLE_3.keys()


@pytest.mark.parametrize("row", TABLE_3)
def test_a_row_says_what_table_3_says(row: str) -> None:
    stage, (epochs, lr, decay, weight_decay, dropout) = ROWS[row], TABLE_3[row]
    dataset = row.replace("-90ep", "").replace("-14ep", "").rsplit("-", 1)[1]
    dataset = "jft300m" if dataset == "jft" else dataset
    assert stage.data.dataset == dataset
    assert stage.steps == epochs * EPOCH_STEPS[dataset]
    assert stage.global_batch == 4096
    optim = stage.optim
    assert (optim.peak_lr, optim.schedule, optim.weight_decay) == (lr, decay, weight_decay)
    assert (optim.name, optim.betas, optim.warmup_steps) == ("adamw", (0.9, 0.999), 10_000)
    assert optim.clip_norm == (1.0 if dataset == "imagenet1k" else 0.0)
    assert optim.end_lr == (1e-5 if row in ("vit-b16-imagenet21k", "vit-b32-imagenet21k") else 0)
    assert stage.image_size == 224
    assert stage.loss == ("softmax" if dataset == "imagenet1k" else "sigmoid")
    if isinstance(stage.model, ViTConfig):
        assert (stage.model.dropout, stage.model.head) == (dropout, "mlp")
    else:
        assert isinstance(stage.model, BiTConfig)


def test_neighbours_differ_in_what_the_paper_changes_alone() -> None:
    assert changed(ROWS["vit-l16-jft-14ep"], ROWS["vit-l16-jft"]) == {"steps"}
    assert changed(ROWS["vit-b32-jft"], JFT_B16) == {"model.patch_size"}
    assert changed(ROWS["vit-l32-jft"], ROWS["vit-l16-jft"]) == {
        "model.patch_size", "optim.peak_lr"
    }  # fmt: skip
    assert changed(ROWS["vit-b16-imagenet1k"], ROWS["vit-b16-imagenet21k"]) == {
        "data.dataset", "model.num_classes", "model.head_bias_init", "loss", "steps",
        "optim.peak_lr", "optim.weight_decay", "optim.schedule", "optim.clip_norm", "optim.end_lr",
    }  # fmt: skip


@pytest.mark.parametrize("task", [name for name in TASKS if name != "vtab"])
def test_finetuning_says_what_table_4_says(task: str) -> None:
    stage = finetune(ROWS["vit-b16-imagenet21k"], task)
    steps = {"imagenet1k": 20_000, "pets": 500, "flowers": 500}.get(task, 10_000)
    optim = stage.optim
    assert (stage.steps, stage.global_batch, stage.image_size) == (steps, 512, 384)
    assert (optim.name, optim.momentum, optim.weight_decay) == ("sgd", 0.9, 0.0)
    assert (optim.clip_norm, optim.schedule) == (1.0, "cosine")
    assert optim.warmup_steps == (100 if task in ("pets", "flowers") else 500)
    assert isinstance(stage.model, ViTConfig)
    assert (stage.model.head, stage.model.dropout) == ("linear", 0.0)


def test_vtab_tasks_say_their_classes() -> None:
    stage = finetune(ROWS["vit-b16-jft"], "vtab", classes=37)
    assert (stage.steps, stage.optim.peak_lr, stage.model.num_classes) == (2_500, 0.01, 37)


def test_the_headline_has_a_larger_image_and_averaged_weights() -> None:
    for row, size in (("vit-l16-jft", 512), ("vit-h14-jft", 518)):
        stage = PAPER[row].stage("finetune")
        assert (stage.image_size, stage.optim.ema_decay) == (size, 0.9999)
        assert PAPER[row].stage("upscale").steps == 0
    assert paper_recipe("vit-l16-jft", "cifar10").stage("finetune").optim.ema_decay is None


def test_a_row_fine_tunes_on_any_task() -> None:
    recipe = find_recipe("vit-b16-imagenet21k-to-cifar10")
    assert recipe.stage("finetune").model.num_classes == 10
    assert recipe.stage("pretrain") == ROWS["vit-b16-imagenet21k"]


def test_the_plain_baseline_is_that_of_2205_01580() -> None:
    stage = BASELINE_S16
    assert isinstance(stage.model, ViTConfig)
    assert (stage.model.pool, stage.model.pos_embed, stage.model.width) == ("gap", "sincos-2d", 384)
    assert (stage.global_batch, stage.steps) == (1024, 90 * 1251)
    assert (stage.optim.peak_lr, stage.optim.weight_decay, stage.optim.clip_norm) == (1e-3, 0.1, 1)
    augment = stage.augment
    assert (augment.mixup, augment.randaugment_layers, augment.randaugment_magnitude) == (
        0.2,
        2,
        10,
    )
