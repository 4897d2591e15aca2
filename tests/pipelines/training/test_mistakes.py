"""Mistakes that are known before training: one line, exit code 2, no traceback, no cluster."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from cluster.errors import BadPlace
from cluster.local.s3 import S3Server
from cluster.settings import Place
from pipelines.cli.place import resolve_place
from pipelines.packing.command import main as pack_command
from tests.pipelines.conftest import Said
from vit import ViTConfig, build_model, export_timm

Command = Callable[..., Said]


def refused(said: Said) -> str:
    """The one line on stderr of a command that refused to train."""
    assert said.code == 2, said.err
    (line,) = said.err.splitlines()
    return line


@pytest.fixture(autouse=True)
def no_cluster_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda *a, **k: pytest.fail("a cluster was asked for"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage.stepz", "3"], "Unrecognized options: --stage.stepz"),
        (["--stage.steps", "three"], "--stage.steps: invalid literal for int()"),
        (["--stage.model.image-size", "18"], "image_size 18 is not a multiple of patch_size 4"),
        (
            ["--place.workers.min", "3", "--place.workers.max", "3"],
            "no number of workers from 3 to 3 divides the global batch of 64",
        ),
        (
            ["--stage.augment.mixup", "0.2", "--stage.global-batch", "6"],
            "from 2 to 2 divides the global batch of 6 into even shares, which mixup",
        ),
        (["--stage.model.num-classes", "10"], "model.num_classes is 10, but the selected data of"),
        (
            ["--stage.data.selection.classes", "1", "11", "--stage.model.num-classes", "2"],
            "has no classes [11], only 10",
        ),
        (["--stage.data.train-split", "test"], "test"),
        (["--stage.global-batch", "4096"], "tail 'drop' uses only whole batches"),
        (["--stage.precision", "bfloat16", "--place.zero.level", "0"], "needs zero.level 1, 2 or"),
        (["--stage.init", "nowhere.npz"], "nowhere.npz: no such file or folder"),
    ],
)
def test_an_impossible_stage_is_refused(
    command: Command, place: list[str], arguments: list[str], message: str
) -> None:
    line = refused(command("pretrain", *place, *arguments))
    assert line.startswith("error: ")
    assert message in line


def test_what_was_inferred_is_printed_once_the_checkpoint_fits(
    command: Command, place: list[str], tmp_path: Path
) -> None:
    """A fitting one gets as far as MLflow, where nothing answers."""
    model = ViTConfig(image_size=16, patch_size=4, width=24, depth=1, heads=2, mlp_dim=32)
    export_timm(build_model(model).state_dict(), model, tmp_path / "tiny")
    words = ("--init", str(tmp_path / "tiny"), "--data", "digits", *place)
    misfit = command("finetune", *words, "--stage.model.width", "48")
    assert "width 24 into 48" in refused(misfit)
    assert "leave --stage.model.width out" in misfit.err
    assert misfit.out == ""
    stopped = command("finetune", *words, "--place.mlflow-uri", "http://127.0.0.1:9")
    assert stopped.out.startswith(f"model of {tmp_path / 'tiny'}\n  width 24, patch_size 4 (")
    assert "MLflow at http://127.0.0.1:9" in stopped.err


def test_missing_data_names_the_command_that_packs_it(
    command: Command, place: list[str], tmp_path: Path
) -> None:
    line = refused(command("pretrain", *place, "--place.data-root", str(tmp_path / "none")))
    assert str(tmp_path / "none" / "digits") in line
    assert "pack.py" in line


def test_empty_data_is_refused(command: Command, place: list[str], tmp_path: Path) -> None:
    (tmp_path / "d" / "digits").mkdir(parents=True)
    (tmp_path / "d" / "digits" / "dataset.json").write_text("{}")
    line = refused(command("pretrain", *place, "--place.data-root", str(tmp_path / "d")))
    assert "dataset.json" in line


def test_a_missing_shard_is_refused(
    command: Command, place: list[str], tmp_path: Path, local_data: str
) -> None:
    packed = tmp_path / "d" / "digits"
    packed.mkdir(parents=True)
    for file in (Path(local_data) / "digits").iterdir():
        if file.name != "train-000000.tar":
            (packed / file.name).write_bytes(file.read_bytes())
    line = refused(command("pretrain", *place, "--place.data-root", str(tmp_path / "d")))
    assert "train-000000.tar" in line


def test_a_missing_parent_names_the_place_and_the_command(
    command: Command, place: list[str], tmp_path: Path
) -> None:
    line = refused(command("upscale", *place, "--run", "x"))
    assert f"no committed weights under {tmp_path}/runs/x/pretrain - run: " in line
    assert "pipelines/pretrain.py --recipe digits --run x" in line


def test_an_unwritable_root_is_refused(command: Command, place: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refused(
        command("pretrain", *place, "--place.storage-root", str(tmp_path / "file" / "r"))
    )
    assert str(tmp_path / "file") in line


def test_a_missing_bucket_and_an_unreachable_server_are_refused(
    command: Command, place: list[str], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server.environment():
        line = refused(command("pretrain", *place, "--place.storage-root", "s3://no-such/r"))
        assert "no-such" in line
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        line = refused(command("pretrain", *place, "--place.storage-root", "s3://bucket/r"))
        assert "127.0.0.1:9" in line
        assert s3_server.secret_key not in line


def test_an_unreachable_tracking_server_is_refused(command: Command, place: list[str]) -> None:
    line = refused(command("pretrain", *place, "--place.mlflow-uri", "http://127.0.0.1:9"))
    assert "MLflow at http://127.0.0.1:9 cannot be used" in line


def test_an_unreachable_cluster_is_refused(
    command: Command, place: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    line = refused(command("pretrain", *place))
    assert "nothing answers at RAY_ADDRESS=127.0.0.1:9" in line


def test_relative_roots_are_refused_in_an_uploaded_copy() -> None:
    uploaded = Path("/tmp/ray/session_x/runtime_resources/working_dir_files/_ray_pkg_0")
    with pytest.raises(BadPlace, match=r"data_root 'data' is relative.*--place.data-root /"):
        resolve_place(Place(), cwd=uploaded)
    place = resolve_place(Place(), cwd=Path("/home/me/checkout"))
    assert place.storage_root == "/home/me/checkout/runs"
    assert place.mlflow_uri == "sqlite:////home/me/checkout/mlflow.db"


def test_print_config_needs_neither_data_nor_storage(command: Command) -> None:
    said = command("pretrain", "--print-config", "--place.data-root", "/nowhere")
    assert (said.code, said.err) == (0, "")
    assert "data_root: /nowhere" in said.out


SCRIPTS = ["pretrain", "upscale", "finetune", "pipeline", "pack"]
SCRIPTS += ["plan", "status", "doctor", "verify_order", "evaluate"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_explains_itself(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(f"pipelines/{script}.py")
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env -S python3 -P\n")
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name="__main__")
    assert not stop.value.code
    assert "usage:" in capsys.readouterr().out


def test_a_script_is_started_by_its_name() -> None:
    done = subprocess.run(
        ["pipelines/pretrain.py", "--help"],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_packing_without_a_source_names_them(called: Command) -> None:
    line = refused(called(pack_command, "pack"))
    assert "no subcommand given, wanted one of digits, idx, folder" in line


def test_packing_refuses_a_missing_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "pipelines/pack.py", "folder"),
            *("--folder", str(tmp_path / "none"), "--out", str(tmp_path / "out")),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert str(tmp_path / "none") in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_packing_digits_writes_a_manifest(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "pipelines/pack.py", "digits", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "1420 train, 377 val, 10 classes" in done.stdout
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["classes"]
