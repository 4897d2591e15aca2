"""What lies under a root and what would run, on real commits of small weights; local and on S3."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.local.s3 import S3Server
from pipelines.cli.options import Command
from pipelines.lineage import command as standing
from pipelines.lineage.command import read_status
from pipelines.lineage.manifest import Checkpoint, DatasetName, Manifest
from pipelines.lineage.resume_states import save_state
from pipelines.lineage.status import attempts_under, differences, what_would_run
from pipelines.recipes.digits import DIGITS
from pipelines.recipes.fingerprint import FORMAT_VERSION, fingerprint, plain
from pipelines.recipes.general import GENERAL
from pipelines.recipes.stage import Stage
from storage import weights
from storage.dataset import load_dataset
from storage.uri import join
from tests.pipelines.conftest import Said

PRETRAIN, UPSCALE, FINETUNE = DIGITS.stages


def commit(root: str, stage: Stage, digest: str, parent: str | None, *, started: int = 1) -> str:
    """Commit what a trained stage leaves, with weights of one number; its fingerprint."""
    name = fingerprint(stage, dataset_digest=digest, parent=parent)
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "recipe": "digits",
        "run": "digits",
        "stage": plain(asdict(stage)),
        "fingerprint": name,
        "parent": parent
        and {
            "stage": stage.parent,
            "fingerprint": parent,
            "attempt": parent,
            "weights_sha256": "0" * 64,
            "mlflow_run_id": "p",
        },
        "dataset": {"name": "digits", "digest": digest},
        "mlflow_run_id": f"mlflow-{stage.name}",
        "git_commit": "abc",
        "started": f"2026-01-0{started}T00:00:00+00:00",
        "step": stage.steps,
        "metrics": {"val/accuracy": 0.5},
    }
    weights.commit(join(root, "digits", stage.name, name), {"w": torch.zeros(1)}, manifest)
    return name


def test_a_mistyped_run_is_told_which_there_are(
    called: Callable[..., Said], tmp_path: Path
) -> None:
    root = str(tmp_path / "runs")
    commit(root, PRETRAIN, "digest", None)
    said = called(standing.main, "status", "--place.storage-root", root, "--run", "digit")
    assert said.code == 2
    assert "no run digit" in said.err
    assert "runs here: digits" in said.err


def status(root: str, data: str, *argv: str) -> Command:
    arguments = ["--place.storage-root", root, "--place.data-root", data, *argv]
    return read_status(arguments, prog="status.py", description="")[0]


def states(command: Command) -> list[tuple[str, str]]:
    found = attempts_under(command.place.storage_root)
    return [(one.state, one.reason) for one in what_would_run(command, found)]


@pytest.fixture(params=["local", "s3"])
def roots(request: pytest.FixtureRequest, tmp_path: Path, local_data: str) -> Any:
    """A storage root and a data root."""
    if request.param == "local":
        yield str(tmp_path / "runs"), local_data
        return
    server: S3Server = request.getfixturevalue("s3_server")
    data: str = request.getfixturevalue("s3_data")
    with server.environment():
        yield server.uri("status", tmp_path.name), data


def test_an_empty_root_would_train_everything(roots: tuple[str, str]) -> None:
    assert states(status(*roots)) == [
        ("would be trained", "nothing is committed"),
        ("would be trained", "after pretrain, nothing is committed"),
        ("would be trained", "after upscale, nothing is committed"),
    ]


def test_what_is_committed_is_listed_with_its_lineage(roots: tuple[str, str]) -> None:
    root, data = roots
    digest = load_dataset(join(data, "digits")).digest
    first = commit(root, PRETRAIN, digest, None)
    second = commit(root, UPSCALE, digest, first)
    assert [state for state, _ in states(status(root, data))] == [
        "committed",
        "committed",
        "would be trained",
    ]
    records = [one.record() for one in attempts_under(root)]
    assert [(one["stage"], one["attempt"], one["parent"]) for one in records] == [
        ("pretrain", first, None),
        ("upscale", second, f"pretrain {first}"),
    ]
    assert records[1]["mlflow_run_id"] == "mlflow-upscale"
    assert (records[0]["step"], records[0]["val_accuracy"]) == (400, 0.5)
    assert attempts_under(root, run="other") == []


def test_a_saved_stage_would_continue(roots: tuple[str, str]) -> None:
    root, data = roots
    digest = load_dataset(join(data, "digits")).digest
    name = fingerprint(PRETRAIN, dataset_digest=digest, parent=None)
    for step in (100, 200):
        save_state(join(root, "digits", "pretrain", name), {"w": torch.zeros(1)}, step=step)
    state, reason = states(status(root, data))[0]
    assert (state, reason) == ("would continue", f"{name} was saved after step 200")
    (record,) = [one.record() for one in attempts_under(root)]
    assert (record["committed"], record["step"]) == (False, 200)


def test_the_cursor_of_verify_order_is_no_attempt(tmp_path: Path) -> None:
    save_state(join(str(tmp_path), ".verify-order-0f"), {"cursor": torch.zeros(1)}, step=4)
    assert attempts_under(str(tmp_path)) == []


def test_a_changed_field_is_named_with_both_values(tmp_path: Path, local_data: str) -> None:
    root = str(tmp_path)
    digest = load_dataset(join(local_data, "digits")).digest
    older = commit(root, replace(PRETRAIN, steps=30), digest, None)
    newer = commit(root, PRETRAIN, digest, None, started=2)
    commit(root, UPSCALE, digest, newer)
    changed = status(root, local_data, "--pretrain.seed", "5", "--pretrain.optim.peak-lr", "0.01")
    (pretrain, upscale, _) = states(changed)
    assert pretrain == (
        "would be trained",
        f"differs from {newer}: optim.peak_lr: 0.001 -> 0.01; seed: 0 -> 5",
    )
    assert upscale[0] == "would be trained"
    assert upscale[1].startswith("after pretrain, differs from")
    assert f"parent: {newer} -> " in upscale[1]
    assert older != newer


def test_another_dataset_is_named() -> None:
    manifest = Manifest(
        stage=plain(asdict(PRETRAIN)),
        dataset=DatasetName(digest="old"),
        format_version=FORMAT_VERSION,
    )
    assert differences(manifest, PRETRAIN, "new", None) == ("dataset digest: old -> new",)
    assert differences(manifest, PRETRAIN, "old", None) == ()


def test_several_parents_ask_for_one(tmp_path: Path, local_data: str) -> None:
    digest = load_dataset(join(local_data, "digits")).digest
    root = str(tmp_path)
    commit(root, PRETRAIN, digest, None)
    found = states(status(root, local_data, "--parent", "nobody"))
    assert found[1][0] == "parent missing"
    assert "--parent nobody is not committed" in found[1][1]


def test_force_trains_what_is_committed(tmp_path: Path, local_data: str) -> None:
    digest = load_dataset(join(local_data, "digits")).digest
    commit(str(tmp_path), PRETRAIN, digest, None)
    assert states(status(str(tmp_path), local_data, "--force"))[0] == (
        "would be trained",
        "--force",
    )


def test_missing_data_is_said(tmp_path: Path) -> None:
    found = states(status(str(tmp_path), str(tmp_path / "none")))
    assert {state for state, _ in found} == {"data missing"}
    assert "pack.py" in found[0][1]


def test_a_committed_parent_without_its_data_is_still_a_parent(
    tmp_path: Path, local_data: str
) -> None:
    digest = load_dataset(join(local_data, "digits")).digest
    commit(str(tmp_path), PRETRAIN, digest, None)
    found = states(status(str(tmp_path), local_data, "--pretrain.data.dataset", "gone"))
    assert [state for state, _ in found] == ["data missing", "would be trained", "would be trained"]
    assert found[1][1] == "nothing is committed"


def test_the_status_is_printed_and_is_json(
    called: Callable[..., Said],
    tmp_path: Path,
    local_data: str,
) -> None:
    digest = load_dataset(join(local_data, "digits")).digest
    name = commit(str(tmp_path), PRETRAIN, digest, None)
    place = ("--place.storage-root", str(tmp_path), "--place.data-root", local_data)
    said = called(standing.main, "status", *place)
    assert (said.code, said.err) == (0, "")
    assert name in said.out
    assert "mlflow-pretrain" in said.out
    content = json.loads(called(standing.main, "status", *place, "--json").out)
    assert content["attempts"][0]["attempt"] == name
    assert content["stages"][0]["state"] == "committed"


def test_a_mistake_ends_with_2(called: Callable[..., Said]) -> None:
    said = called(standing.main, "status", "--recipe", "cats")
    assert (said.code, len(said.err.splitlines())) == (2, 1)
    said = called(standing.main, "status", "--place.storage-root", "ftp://x/y")
    assert (said.code, len(said.err.splitlines())) == (2, 1)


def test_a_checkpoint_that_moved_is_no_difference_and_a_replaced_one_is() -> None:
    stage = replace(PRETRAIN, init="a/x.npz")
    manifest = Manifest(
        stage=plain(asdict(stage)),
        dataset=DatasetName(digest="d"),
        init=Checkpoint(uri="a/x.npz", sha256="1" * 64),
    )
    moved = replace(stage, init="b/y.npz")
    assert differences(manifest, moved, "d", None, "1" * 64) == ()
    (line,) = differences(manifest, moved, "d", None, "2" * 64)
    assert line == f"checkpoint: {'1' * 12} -> {'2' * 12}"


def test_a_copied_attempt_is_listed_and_not_used(
    tmp_path: Path, local_data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, digest = str(tmp_path / "runs"), load_dataset(join(local_data, "digits")).digest
    name = commit(root, PRETRAIN, digest, None)
    folder = Path(root) / "digits" / "pretrain"
    (folder / name).rename(folder / f"{name}-backup")
    found = attempts_under(root)
    assert [one.attempt.name for one in found] == [f"{name}-backup"]
    command = status(root, local_data)
    verdict, *_ = verdicts = what_would_run(command, found)
    assert (verdict.state, verdict.reason) == ("would be trained", "nothing is committed")
    standing.print_status(found, verdicts, command)
    assert "not used" in capsys.readouterr().out


def test_a_committed_fine_tuning_of_a_checkpoint_misses_no_data(tmp_path: Path) -> None:
    """The recipe does not say which data and checkpoint: the command line of finetune.py did."""
    stage = replace(GENERAL.stages[0], data=replace(GENERAL.stages[0].data, dataset="photos"))
    name = commit(str(tmp_path), stage, "d", None)
    found = status(str(tmp_path), str(tmp_path / "none"), "--recipe", "finetune", "--run", "digits")
    (verdict,) = what_would_run(found, attempts_under(str(tmp_path)))
    assert (verdict.state, verdict.fingerprint) == ("committed", name)
    other = status(str(tmp_path), str(tmp_path / "none"), "--recipe", "finetune", "--run", "other")
    ((state, _),) = states(other)
    assert state == "data missing"
