from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from pipelines.campaigns.campaign import CampaignOptions
from pipelines.cli.command_line import read_command
from pipelines.cli.options import Command
from pipelines.cli.parser import parse, parser_message
from pipelines.lineage.adoption import FromCheckpointAndData


def read(*argv: str, stage: str | None = "pretrain") -> Command:
    return read_command(list(argv), stage_name=stage, prog="pretrain.py", description="")


def test_defaults_are_the_recipe_and_the_shipped_place() -> None:
    command = read()
    assert [stage.name for stage in command.stages] == ["pretrain"]
    assert command.options.run == command.options.recipe == "digits"
    assert (command.place.workers.fewest, command.place.workers.most) == (2, 2)


def test_overrides_are_typed_and_dotted() -> None:
    command = read(
        "--stage.steps", "20", "--stage.optim.peak-lr", "3e-5", "--place.workers.max", "4",
        "--stage.data.selection.classes", "1", "2", "3",
    )  # fmt: skip
    (stage,) = command.stages
    assert (stage.steps, stage.optim.peak_lr) == (20, 3e-5)
    assert stage.data.selection.classes == (1, 2, 3)
    assert command.place.workers.max == 4
    assert command.recipe.stage("pretrain") == stage


def test_a_pipeline_overrides_each_stage_by_its_name() -> None:
    command = read("--pretrain.steps", "20", "--finetune.seed", "7", stage=None)
    assert [stage.name for stage in command.stages] == ["pretrain", "upscale", "finetune"]
    assert command.stages[0].steps == 20
    assert command.stages[2].seed == 7


def test_another_config_file_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "place.yaml"
    path.write_text("recipe: digits-scratch\nmax_micro_batch: 3\n")
    command = read("--config", str(path), stage="finetune")
    assert command.options.recipe == "digits-scratch"
    assert command.place.max_micro_batch == 3


def test_print_config_is_yaml_of_everything() -> None:
    shown = yaml.safe_load(read("--stage.seed", "5").as_yaml())
    assert shown["stages"]["pretrain"]["seed"] == 5
    assert shown["place"]["zero"]["level"] == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--stage.stepz 3", r"Unrecognized options: --stage.stepz.* perhaps --stage.steps"),
        ("--stage.steps many", r"--stage.steps: invalid literal for int\(\).* 'many'"),
        ("--stage.global-batch 0", r"global_batch: wanted at least 1, found 0"),
        ("--stage.model.image-size 17", r"image_size 17 is not a multiple of patch_size 4"),
        ("--place.zero.level 7", r"invalid choice '7' .*zero.level"),
        (
            "--place.workers.min 3 --place.workers.max 2",
            r"wanted 1 <= min <= max, found min 3, max 2",
        ),
        ("--recipe cats", r"no recipe 'cats' - there are: .*digits"),
        ("--recipe", r"--recipe: expected one argument"),
        ("--config nowhere.yaml", r"nowhere.yaml: no such file - give one with --config"),
        ("--stage.name other", r"--stage.name cannot be changed"),
        ("pretrain", r"Unrecognized options: pretrain"),
    ],
)
def test_a_wrong_argument_is_one_line(argv: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read(*argv.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a/b", "", " ", "..", ".cursor", "a\nb"])
def test_a_run_that_is_no_folder_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match="a run is one folder under storage_root") as error:
        read("--run", name)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="a run is one folder"):
        CampaignOptions(run=name)


@pytest.mark.parametrize("name", ["o'brien", "my run", "größe-2", "2026-01-31_a.b"])
def test_other_names_of_runs_are_taken(name: str) -> None:
    assert read("--run", name).options.run == name


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read("--help-all")
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--stage.optim.peak-lr FLOAT" in text
    assert "ZeRO level: 0 replicates everything" in text


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    """Share of the images that are left
    out, `none` of them by
    default."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = field(default_factory=Inner)


def test_where_a_docstring_is_wrapped_does_not_show_in_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse(Outer, ["--help"], prog="x", description="")
    lines = capsys.readouterr().out.splitlines()
    assert any("images that are left out, `none` of them" in line for line in lines), lines
    assert parse(Outer, ["--inner.rate", "1"], prog="x", description="") == Outer(
        inner=Inner(rate=1)
    )


@dataclass(frozen=True, kw_only=True)
class Sizes:
    side: int | None = None
    """Default: the model's."""
    limit: int | None = None
    """Of the images."""


def test_help_says_a_default_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Sizes, ["--help"], prog="x", description="")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Default: the model's. --limit" in text
    assert "Of the images. (default: None)" in text


def test_a_message_without_a_box_says_the_same() -> None:
    rule = "-" * 70
    plain = f"Value error\n{rule}\nError parsing --a: no\n{rule}\nFor full helptext, see x --help"
    boxed = "╭─ Value error ─╮\n│ Error parsing --a: no │\n│ ─────── │\n│ For full │\n╰───────╯"
    assert parser_message(plain) == parser_message(boxed) == "Error parsing --a: no"


def test_another_trainers_option_is_answered_where_ours_is_there() -> None:
    said = "Unrecognized options: --img-size, 3"
    assert parser_message(said, known={"--image-size"}) == f"{said} - perhaps --image-size"
    assert parser_message(said, known={"--batch"}) == said


def test_the_shown_config_hides_a_password() -> None:
    shown = read("--place.mlflow-uri", "https://me:secret@host/x").as_yaml()
    assert "secret" not in shown
    assert "https://***@host/x" in shown


def test_help_fits_on_one_screen_and_help_all_has_the_rest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = {}
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as stop:
            read_command(
                [word],
                prog="finetune.py",
                description="d",
                stage_name="finetune",
                adoption=FromCheckpointAndData(),
            )
        assert stop.value.code == 0
        shown[word] = capsys.readouterr().out
    for name in ("--init", "--data", "--epochs", "--batch", "--lr", "--image-size", "--help-all"):
        assert name in shown["--help"]
    assert shown["--help"].count("\n") <= 50
    assert "required" not in shown["--help"]
    assert "--stage.optim.peak-lr FLOAT" not in shown["--help"]
    assert "--stage.optim.peak-lr FLOAT" in shown["--help-all"]
    assert "--lr" in shown["--help-all"]
