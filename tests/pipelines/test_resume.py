"""A job killed in mid-training continues from its last save to the very same weights."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.attempts import committed_attempts
from pipelines.states import newest_state
from storage import weights
from tests.pipelines.conftest import Said

STEPS = 120
SCIENCE = [
    *("--stage.steps", str(STEPS)),
    *("--stage.eval-every-steps", "0"),
    *("--stage.model.depth", "1"),
    *("--stage.model.dropout", "0.1"),
    *("--stage.optim.ema-decay", "0.9"),
]
PLACE = ["--place.save-every-steps", "10", "--place.log-every-steps", "5"]


def attempt_folder(root: Path, run: str) -> Path:
    (folder,) = (root / run / "pretrain").iterdir()
    return folder


@pytest.mark.timeout(600)
def test_a_killed_job_continues_to_the_same_weights(
    command: Callable[..., Said],
    ray_session: str,
    place: list[str],
    tmp_path: Path,
) -> None:
    root = tmp_path / "runs"
    job = subprocess.Popen(
        [
            *(sys.executable, "-P", "pipelines/pretrain.py", "--run", "killed"),
            *(*place, *PLACE, *SCIENCE),
        ],
        env={**os.environ, "RAY_ADDRESS": ray_session},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not list(root.glob("killed/pretrain/*/resume/*/manifest.json")):
        assert job.poll() is None, job.stderr and job.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(signal.SIGKILL)
    job.wait()
    folder = attempt_folder(root, "killed")
    state = newest_state(str(folder))
    assert state is not None
    assert not (folder / "manifest.json").exists(), "it was done before it was killed"

    continued = command("pretrain", "--run", "killed", *place, *PLACE, *SCIENCE)
    assert continued.code == 0, continued.err
    resumed = newest_of(continued.out)
    assert resumed >= state.step

    unbroken = command("pretrain", "--run", "unbroken", *place, *PLACE, *SCIENCE)
    assert unbroken.code == 0, unbroken.err
    for name in ("weights", "weights_ema"):
        expected, _ = weights.read_weights(str(attempt_folder(root, "unbroken")), name=name)
        found, _ = weights.read_weights(str(folder), name=name)
        assert found.keys() == expected.keys()
        assert all(found[key].equal(expected[key]) for key in expected)

    (attempt,) = committed_attempts(str(root), "killed", "pretrain")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs(
        [experiment.experiment_id], filter_string=f"tags.`vit.attempt` = '{attempt.uri}'"
    )
    assert [run.info.status for run in runs] == ["FINISHED"]


def newest_of(output: str) -> int:
    """The step a run says it resumed after."""
    (line,) = [line for line in output.splitlines() if "resumed after step" in line]
    return int(line.rsplit(" ", 1)[1])
