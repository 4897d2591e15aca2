"""`pipelines/inspect_weights.py` as a user calls it."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

import vit
from pipelines.inspection.command import main
from pipelines.recipes.digits import PRETRAIN, UPSCALE
from tests.pipelines.conftest import Said
from tests.pipelines.support.committed import commit_stage

Called = Callable[..., Said]


@pytest.fixture
def arguments(tmp_path: Path, place: list[str]) -> list[str]:
    return [*place, "--out", str(tmp_path / "out"), "--images", "6"]


def test_the_stages_of_a_run(
    called: Called, arguments: list[str], tmp_path: Path, local_data: str
) -> None:
    before = commit_stage(str(tmp_path / "runs"), PRETRAIN, local_data)
    after = commit_stage(str(tmp_path / "runs"), UPSCALE, local_data, parent=before)
    ran = called(main, "inspect_weights", *arguments)
    assert ran.code == 0, ran.err
    names = [f"pretrain-{Path(before[0]).name}", f"upscale-{Path(after[0]).name}"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    for name in names:
        assert len(list((tmp_path / "out" / name).glob("*.png"))) == 4
        assert f"wrote {tmp_path / 'out' / name / 'inspection.json'}" in ran.out

    one = called(main, "inspect_weights", *arguments, "--weights", after[0], "--split", "train")
    assert one.code == 0, one.err
    assert one.out.count("wrote") == 5
    chosen = called(main, "inspect_weights", *arguments, "--parent", Path(before[0]).name)
    assert chosen.out.count("wrote") == 5
    assert names[0] in chosen.out


def test_a_public_checkpoint(called: Called, arguments: list[str], tmp_path: Path) -> None:
    model = vit.build_model(replace(PRETRAIN.model, head="linear", num_classes=3))
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    ran = called(
        main, "inspect_weights", *arguments, "--weights", str(tmp_path / "timm.safetensors"),
        "--only", "pretrain", "--dataset", "digits",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "head" in ran.out  # what was changed to fit
    assert len(list((tmp_path / "out" / "timm").glob("*.png"))) == 4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([], "no committed weights of pretrain, upscale, finetune under"),
        (["--weights", "/nowhere/x.npz"], "/nowhere/x.npz"),
        (["--images", "0"], "--images: wanted at least 1, found 0"),
        (["--only", "nothing"], "has no stage 'nothing'"),
        (["--only", "pretrain", "--parent", "ab"], "no committed weights of pretrain (ab) under"),
    ],
)
def test_a_mistake_is_one_line(
    called: Called, arguments: list[str], wrong: list[str], said: str
) -> None:
    ran = called(main, "inspect_weights", *arguments, *wrong)
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("by", [["pipelines/inspect_weights.py"], [sys.executable]], ids=str)
def test_the_script_starts_either_way(by: list[str]) -> None:
    """Without -P the script's folder is first on the path, where nothing may hide a module."""
    script = [] if by[0].endswith(".py") else ["pipelines/inspect_weights.py"]
    done = subprocess.run([*by, *script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--weights" in done.stdout
