"""`finetune.py --init CHECKPOINT --data NAME`: model, classes and length follow from the two."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.command_line import read_command
from pipelines.cli.options import Command
from pipelines.lineage.adoption import FromCheckpointAndData
from pipelines.recipes.digits import DIGITS
from pipelines.recipes.errors import Mistake
from storage.augment import AugmentConfig
from storage.errors import DatasetNotFound
from vit import ViTConfig, build_model, export_timm

# digits: 1,420 training images of ten classes
CHECKPOINT = ViTConfig(
    image_size=16, patch_size=4, width=32, depth=2, heads=4, mlp_dim=64, num_classes=7, gelu="exact"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint as timm publishes it."""
    folder = tmp_path_factory.mktemp("public")
    export_timm(build_model(CHECKPOINT, seed=1).state_dict(), CHECKPOINT, folder / "tiny")
    return str(folder / "tiny")


def finetune(data_root: str, *words: str, stage_name: str = "finetune") -> Command[Any]:
    return read_command(
        [*words, "--place.data-root", data_root],
        prog="finetune.py",
        description="",
        stage_name=stage_name,
        adoption=FromCheckpointAndData(),
    )


def test_the_model_is_the_checkpoints_and_the_classes_are_the_datas(
    local_data: str, folder: str
) -> None:
    command = finetune(local_data, "--init", folder, "--data", "digits", "--epochs", "3")
    (stage,) = command.stages
    assert stage.model == replace(CHECKPOINT, num_classes=10)
    assert (command.recipe.name, command.options.run) == ("finetune", "digits")
    assert (stage.init, stage.parent, stage.reset_head) == (folder, None, True)
    assert stage.steps == round(3 * 1420 / 64) == 67
    assert stage.optim.warmup_steps == 6
    assert stage.eval_every_steps == 23  # after 23, 46 and 67
    said = "\n".join(command.notes)
    assert f"model of {folder}" in said
    assert "heads 4, image_size 16" in said
    assert "crop center 0.8889 (config.json)" in said


def test_what_is_unusual_of_a_model_is_printed(
    local_data: str, folder: str, tmp_path: Path
) -> None:
    config = replace(CHECKPOINT, layer_scale=True, mlp="swiglu", registers=4)
    export_timm(build_model(config, seed=1).state_dict(), config, tmp_path / "later")
    said = {
        init: "\n".join(finetune(local_data, "--init", init, "--data", "digits").notes)
        for init in (folder, str(tmp_path / "later"))
    }
    for line in ("mlp swiglu", "layer_scale True", "registers 4"):
        assert line in said[str(tmp_path / "later")]
    assert "mlp swiglu" not in said[folder]
    assert "layer_scale" not in said[folder]


def test_evaluation_cuts_as_the_checkpoint_says_unless_the_stage_says_otherwise(
    local_data: str, folder: str, tmp_path: Path
) -> None:
    whole, words = tmp_path / "whole", ("--data", "digits")
    shutil.copytree(folder, whole)
    text = (whole / "config.json").read_text()
    (whole / "config.json").write_text(
        text.replace('"crop_pct": 0.875', '"crop_pct": 1.0')
        .replace('"center"', '"squash"')
        .replace('"bicubic"', '"bilinear"')
    )
    for init, *crop in (
        (folder, "center", 16 / 18, "bicubic"),
        (str(whole), "resize", 0.875, "bilinear"),
    ):
        (data,) = (s.data for s in finetune(local_data, "--init", init, *words).stages)
        assert [data.eval_crop, data.eval_fraction, data.eval_interpolation] == crop
    given = ("--stage.data.eval-crop", "center", "--stage.data.eval-fraction", "0.5")
    (stage,) = finetune(local_data, "--init", str(whole), *words, *given).stages
    assert (stage.data.eval_crop, stage.data.eval_fraction) == ("center", 0.5)
    words = ("--recipe", "digits", "--init", str(whole))
    (stage,) = finetune(local_data, *words).stages
    assert stage.data == DIGITS.stage("finetune").data


def test_a_dataset_may_be_written_as_a_folder(local_data: str, folder: str) -> None:
    """As the shell completes it."""
    command = finetune(local_data, "--init", folder, "--data", "digits/")
    assert (command.options.run, command.stages[0].data.dataset) == ("digits", "digits")


def test_a_probe_trains_the_head_of_the_checkpoints_model(local_data: str, folder: str) -> None:
    words = ("--recipe", "probe", "--init", folder, "--data", "digits", "--epochs", "3")
    command = finetune(local_data, *words)
    (stage,) = command.stages
    assert (command.recipe.name, command.options.run) == ("probe", "digits")
    assert (stage.train, stage.model) == ("head", replace(CHECKPOINT, num_classes=10))
    assert (stage.steps, stage.optim.warmup_steps, stage.precision) == (67, 6, "float32")
    assert (stage.augment, stage.label_smoothing) == (AugmentConfig(), 0)
    assert (stage.data.crop, stage.data.flip) == ("random", True)
    (stage,) = finetune(local_data, *words, "--stage.train", "blocks 1..").stages
    assert stage.train == "blocks 1.."


def test_augreg_fine_tunes_the_checkpoints_model_by_sgd(local_data: str, folder: str) -> None:
    words = ("--recipe", "augreg-finetune", "--init", folder, "--data", "digits", "--batch", "64")
    command = finetune(local_data, *words)
    (stage,) = command.stages
    assert (command.recipe.name, command.options.run) == ("augreg-finetune", "digits")
    assert (stage.train, stage.model) == ("all", replace(CHECKPOINT, num_classes=10))
    assert (stage.optim.name, stage.optim.peak_lr, stage.keep) == ("sgd", 0.01, "last")
    assert stage.optim.warmup_steps == int(0.1 * stage.steps) > 0


def test_long_options_win_and_the_length_follows_from_them(local_data: str, folder: str) -> None:
    words = ("--init", folder, "--data", "digits", "--epochs", "2", "--batch", "32", "--lr", "0.01")
    longer = ("--stage.data.selection.classes", "3", "5", "--stage.global-batch", "16")
    (stage,) = finetune(local_data, *words, *longer, "--stage.optim.warmup-steps", "1").stages
    assert (stage.global_batch, stage.optim.peak_lr, stage.optim.warmup_steps) == (16, 0.01, 1)
    assert stage.model.num_classes == 2
    assert 250 < stage.steps * 16 / 2 < 320  # the images of two classes
    (stage,) = finetune(local_data, *words, "--stage.steps", "12", "--image-size", "24").stages
    assert (stage.steps, stage.image_size, stage.optim.warmup_steps) == (12, 24, 1)


def test_in_another_recipe_the_model_is_the_recipes(local_data: str, folder: str) -> None:
    words = ("--recipe", "digits", "--init", folder, "--data", "digits", "--epochs", "4")
    (stage,) = finetune(local_data, *words).stages
    assert isinstance(stage.model, ViTConfig)
    assert (stage.model.width, stage.model.num_classes) == (96, 10)
    assert (stage.init, stage.parent, stage.global_batch) == (folder, None, 32)
    (stage,) = finetune(
        local_data, "--recipe", "digits", "--epochs", "2", stage_name="pretrain"
    ).stages
    assert stage.optim.warmup_steps == 10
    assert 2 * 900 < stage.steps * 64 < 2 * 1100  # the images of seven classes


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["--recipe", "finetune", "--data", "digits"], Mistake, "give --init"),
        (["--data", "digits"], Mistake, "recipe finetune .* give --init"),
        (["--recipe", "probe", "--data", "digits"], Mistake, "recipe probe .* give --init"),
        (["--recipe", "augreg-finetune", "--data", "digits"], Mistake, "recipe augreg-finetune .*"),
        (["--init", "CHECKPOINT"], Mistake, "give --data NAME"),
        (["--init", "CHECKPOINT", "--data", "none"], DatasetNotFound, "/none: .*: .*digits"),
        (["--init", "CHECKPOINT", "--data", "data/none"], DatasetNotFound, "data/none: .*digits"),
        (["--init", "CHECKPOINT", "--data", "/data/none"], Mistake, "give none"),
        (["--init", "none", "--data", "digits"], Mistake, "none: no such file"),
        (["--init", "CHECKPOINT", "--data", "digits", "--epochs", "0"], Mistake, "^--epochs 0"),
        (["--init", "CHECKPOINT", "--data", "digits", "--epochs", "x"], Mistake, "^--epochs x"),
    ],
)
def test_what_is_missing_is_named_by_its_option(
    local_data: str, folder: str, words: list[str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        finetune(local_data, *(folder if word == "CHECKPOINT" else word for word in words))
    assert "\n" not in str(caught.value)


def test_heads_that_nothing_shows_are_asked_for_by_their_option(
    local_data: str, folder: str, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((Path(folder) / "model.safetensors").read_bytes())
    words = ("--init", str(bare), "--data", "digits")
    with pytest.raises(ValueError, match=r"heads.*--stage\.model\.heads"):
        finetune(local_data, *words)
    (stage,) = finetune(local_data, *words, "--stage.model.heads", "4").stages
    assert stage.model == replace(CHECKPOINT, num_classes=10)
