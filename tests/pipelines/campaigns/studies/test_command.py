"""A study of a few steps as a user runs it, and again, when nothing is left to do."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.campaigns.studies import STUDIES, command, resolution
from pipelines.campaigns.studies.study import FewShotTask, Study
from pipelines.cli.exits import Failed
from pipelines.recipes.digits import FINETUNE, PRETRAIN
from pipelines.tracking.attempt_run import spool_path
from tests.pipelines.conftest import Said
from tests.pipelines.support.committed import commit_stage

FEW_SHOT = FewShotTask(dataset="digits", shots=(1, 5), seeds=(0, 1), test_samples=100)


def tiny(seeds: int = 1) -> Study:
    """Pre-train, then fine-tune at two resolutions, which run side by side."""
    model = replace(PRETRAIN.model, depth=1)
    optim = replace(PRETRAIN.optim, warmup_steps=1)
    pretrain = replace(
        PRETRAIN, model=model, optim=optim, steps=6, eval_every_steps=2, global_batch=16
    )
    tune = replace(
        FINETUNE,
        model=replace(model, num_classes=10, head="linear"),
        optim=replace(FINETUNE.optim, warmup_steps=1),
        steps=4,
        eval_every_steps=2,
        global_batch=16,
    )
    made = resolution.study("study-tiny", pretrain, tune, image_sizes=(16, 24), seeds=seeds)
    return replace(made, name="tiny", few_shot=FEW_SHOT, metric="few_shot/5")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_study_runs_once_and_says_the_same_again(
    called: Callable[..., Said],
    ray_session: str,
    place: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(STUDIES, "tiny", {"cpu": tiny, "paper": tiny})
    arguments = ["tiny", "--parallel", "2", *place]
    ran = called(command.main, "study", *arguments, "--out", str(tmp_path / "out"))
    assert ran.code == 0, ran.err
    assert "3 stages to run, 2 at once" in ran.out
    assert "The paper: it is often beneficial" in ran.out

    rows = list(csv.DictReader((tmp_path / "out" / "tiny.csv").open()))
    assert [row["stage"] for row in rows] == ["finetune-16px-s0", "finetune-24px-s0"]
    run = tmp_path / "runs" / "study-tiny"
    for row in rows:
        manifest = json.loads((run / row["stage"] / row["attempt"] / "manifest.json").read_text())
        assert float(row["val/accuracy"]) == manifest["metrics"]["val/accuracy"]
        assert manifest["parent"]["stage"] == "pretrain-s0"
        assert int(row["images"]) == (6 + 4) * 16  # over the chain
    check_mlflow(tmp_path, rows)

    measured = {path: path.stat().st_mtime_ns for path in run.rglob("*.json")}
    again = called(command.main, "study", *arguments, "--out", str(tmp_path / "again"))
    assert again.code == 0, again.err
    assert again.out.count("committed already") == 3
    assert "stages to run" not in again.out
    kept = {path: at for path, at in measured.items() if path.name != "tiny.json"}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for name in ("tiny.csv", "tiny.json", "tiny.png", "tiny.svg"):
        first = (tmp_path / "out" / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == first
        assert (run / name).read_bytes() == first


def check_mlflow(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    """The study's run has its files; the best of a stage's evaluations is in the table."""
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("study-tiny")
    assert experiment is not None
    runs = {
        run.data.tags["vit.stage"]: run
        for run in client.search_runs([experiment.experiment_id])
        if run.data.tags["vit.kind"] == "stage"
    }
    assert set(runs) == {"study-tiny", "pretrain-s0", "finetune-16px-s0", "finetune-24px-s0"}
    study = runs["study-tiny"]
    files = {one.path for one in client.list_artifacts(study.info.run_id)}
    assert study.info.status == "FINISHED"
    assert files >= {"tiny.csv", "tiny.json", "tiny.png", "tiny.svg"}
    for row in rows:
        run_id = runs[row["stage"]].info.run_id
        seen = [metric.value for metric in client.get_metric_history(run_id, "val/accuracy")]
        assert len(seen) == 2
        assert float(row["best/accuracy"]) == max(seen)


def test_a_best_accuracy_that_mlflow_has_not_yet_is_not_made_up(
    local_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records of an outage still wait on this machine, and no server answers."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    study = replace(tiny(), few_shot=None)
    uri, _ = commit_stage(str(tmp_path / "runs"), FINETUNE, local_data, mlflow_run_id="a" * 32)
    done: Any = SimpleNamespace(weights=uri)
    outcomes = {point.stage: done for point in study.points}
    place: Any = None
    ours = command.command_of(study.recipe, "r", place)
    spool_path("a" * 32).write_text("{}\n")
    with pytest.raises(Failed, match="does not have all metrics of stage finetune-16px-s0 yet"):
        command.measured(study, ours, outcomes, None)


def test_a_plan_starts_nothing(
    called: Callable[..., Said], place: list[str], tmp_path: Path
) -> None:
    database = tmp_path / "new.db"
    place += ["--place.mlflow-uri", f"sqlite:///{database}"]
    ran = called(command.main, "study", "pos-embed", "--plan", "--seeds", "3", *place)
    assert ran.code == 0, ran.err
    assert "12 of 12 stages to run" in ran.out
    assert "; 40% of the peak (assumed: --cluster.mfu); starting up" in ran.out
    assert "data missing" in ran.out  # no Fashion-MNIST here, and none is needed
    assert not (tmp_path / "runs").exists()
    assert not database.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "no study 'nothing' - there are: data-size, scaling"),
        (("pos-embed", "--size", "huge"), "huge"),
        (("pos-embed", "--seeds", "0"), "--seeds 0"),
        (("pos-embed",), "fashion-mnist"),
        (("pos-embed", "--on", "abacus", "--plan"), "--on abacus"),
    ],
)
def test_a_mistake_is_one_line(
    called: Callable[..., Said], place: list[str], arguments: tuple[str, ...], said: str
) -> None:
    ran = called(command.main, "study", *arguments, *place)
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1
