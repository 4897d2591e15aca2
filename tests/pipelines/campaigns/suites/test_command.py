"""A suite of real images as a user runs it: killed in the middle, continued, and run again."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.campaigns.suites import command
from tests.pipelines.conftest import Said

TASKS = ("digits-3-5-8", "digits-parity")
ARGUMENTS = [
    *("small", "--scratch", "--run", "suite", "--tasks", *TASKS),
    *("--sweep", "0.01", "0.1", "--steps", "12", "--seeds", "1", "--parallel", "1"),
]


def committed(root: Path) -> dict[str, int]:
    """Stage -> when its one attempt was committed, in ns."""
    found = {path.parent.parent.name: path for path in root.glob("suite/*/*/manifest.json")}
    assert len(found) == len(list(root.glob("suite/*/*/manifest.json"))), "a second attempt"
    return {stage: path.stat().st_mtime_ns for stage, path in found.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_suite_killed_in_the_middle_repeats_no_finished_task(
    called: Callable[..., Said], ray_session: str, place: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    job = subprocess.Popen(
        [sys.executable, "-P", "pipelines/suite.py", *ARGUMENTS, *place],
        env={**os.environ, "RAY_ADDRESS": ray_session},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 900
        while "digits-3-5-8-s0" not in committed(root):
            assert job.poll() is None, job.stderr and job.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        job.send_signal(signal.SIGKILL)
        job.communicate(timeout=60)
    before = committed(root)
    assert set(before) == {
        *(f"{task}-lr{lr}" for task in TASKS for lr in (0.01, 0.1)),
        TASKS[0] + "-s0",
    }

    continued = called(command.main, "suite", *ARGUMENTS, *place, "--out", str(tmp_path / "out"))
    assert continued.code == 0, continued.err
    assert "1 stages to run" in continued.out
    assert continued.out.count("committed already") == 5
    after = committed(root)
    assert {stage: after[stage] for stage in before} == before
    assert set(after) - set(before) == {"digits-parity-s0"}
    check_results(tmp_path / "out", root)
    check_mlflow(tmp_path)

    again = called(command.main, "suite", *ARGUMENTS, *place)
    assert again.code == 0, again.err
    assert again.out.count("committed already") == 6
    assert committed(root) == after


def check_results(out: Path, root: Path) -> None:
    """The table says what the manifests say, and the rate is that of the best held-out accuracy."""

    def accuracy(stage: str) -> float:
        (manifest,) = root.glob(f"suite/{stage}/*/manifest.json")
        return json.loads(manifest.read_text())["metrics"]["val/accuracy"]

    rows = list(csv.DictReader((out / "suite-small.csv").read_text().splitlines()))
    assert [row["task"] for row in rows] == list(TASKS)
    for row in rows:
        tried = {rate: accuracy(f"{row['task']}-lr{rate:g}") for rate in (0.01, 0.1)}
        assert float(row["held_out_accuracy"]) == max(tried.values())
        assert tried[float(row["learning_rate"])] == max(tried.values())
        assert float(row["accuracy"]) == accuracy(f"{row['task']}-s0")
    content = json.loads((out / "suite-small.json").read_text())
    specialised, structured, whole = content["means"]
    assert (specialised["name"], specialised["tasks"]) == ("specialised", 1)
    assert structured["mean"] == accuracy("digits-parity-s0")
    assert whole["mean"] == pytest.approx((specialised["mean"] + structured["mean"]) / 2)
    assert content["start"] == "random weights"


def check_mlflow(tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    kinds = [run.data.tags["vit.kind"] for run in runs]
    assert (kinds.count("run"), kinds.count("stage")) == (1, 1 + 6)
    (suite,) = (run for run in runs if run.data.tags.get("vit.stage") == "suite-small")
    assert suite.info.status == "FINISHED"
    files = {one.path for one in client.list_artifacts(suite.info.run_id)}
    assert files >= {"suite-small.csv", "suite-small.json"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("medium",), "no suite 'medium' - there are: small, vtab"),
        (
            ("small", "--tasks", "digits-1"),
            "suite small has no task 'digits-1' - there are: digits,",
        ),
        (("small", "--seeds", "0"), "seeds: wanted at least 1"),
        (("small", "--init", "x", "--scratch"), "--init and --scratch"),
        (("small", "--start", "nothing"), "has no stage 'nothing'"),
        (("small", "--tasks", "digits"), "no committed weights under"),
        (("vtab",), "none of its datasets is packed under"),
    ],
)
def test_a_mistake_is_one_line(
    called: Callable[..., Said], place: list[str], arguments: tuple[str, ...], said: str
) -> None:
    ran = called(command.main, "suite", *arguments, *place)
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_what_is_not_packed_is_named_and_a_plan_needs_no_data(
    called: Callable[..., Said], place: list[str], tmp_path: Path
) -> None:
    ran = called(command.main, "suite", "vtab", "--plan", *place)
    assert ran.code == 0, ran.err
    named = next(line for line in ran.out.splitlines() if line.startswith("not packed under"))
    assert named.count(",") == 1 + 18  # "left out: " and 19 tasks
    assert "57 of 57 stages to run" in ran.out  # 19 tasks, 3 seeds, one rate
    assert not (tmp_path / "runs").exists()
