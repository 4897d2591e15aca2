"""A job that was stopped, then killed, continues from its saves to the very same weights.

A worker is lost right after their commit, too: nothing is trained again.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient

from pipelines.lineage.newest_state import newest_state
from storage import weights
from tests.faults.support.injury import kill_trainer_at_the_commit
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


def start_job(place: list[str], address: str) -> subprocess.Popen[str]:
    """The script as a user starts it, on the session's cluster."""
    return subprocess.Popen(
        [
            *(sys.executable, "-P", "pipelines/pretrain.py", "--run", "stopped"),
            *(*place, *PLACE, *SCIENCE),
        ],
        env={**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_after_a_save(job: subprocess.Popen[str], root: Path, stop: signal.Signals) -> int:
    """Send the signal once there is a newer state than before; return that state's step."""
    before = saved_step(root)
    deadline = time.monotonic() + 240
    while saved_step(root) <= before:
        assert job.poll() is None, job.stderr and job.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(stop)
    return saved_step(root)


def saved_step(root: Path) -> int:
    folders = list(root.glob("stopped/pretrain/*"))
    state = newest_state(str(folders[0])) if folders else None
    return state.step if state else 0


def mlflow_status(tmp_path: Path, attempt: Path) -> list[str]:
    """Status of every MLflow run of an attempt."""
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs(
        [experiment.experiment_id], filter_string=f"tags.`vit.attempt` = '{attempt}'"
    )
    return [run.info.status for run in runs]


@pytest.mark.timeout(900)
def test_a_stopped_and_a_killed_job_continue_to_the_same_weights(
    command: Callable[..., Said], ray_session: str, place: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    stopped = start_job(place, ray_session)
    first = stop_after_a_save(stopped, root, signal.SIGTERM)  # as `ray job stop` does
    _, stderr = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    (line,) = stderr.splitlines()
    assert line.startswith("stopped; run the same command again")
    folder = attempt_folder(root, "stopped")
    assert mlflow_status(tmp_path, folder) == ["KILLED"]

    killed = start_job(place, ray_session)
    second = stop_after_a_save(killed, root, signal.SIGKILL)
    stdout, _ = killed.communicate(timeout=60)
    assert resumed_after(stdout) >= first
    assert not (folder / "manifest.json").exists(), "it was done before it was killed"

    session: str = ray._private.worker._global_node.get_session_dir_path()  # type: ignore[attr-defined]
    lost: list[int] = []
    killer = threading.Thread(target=kill_trainer_at_the_commit, args=(folder, session, lost))
    killer.start()
    continued = command("pretrain", "--run", "stopped", *place, *PLACE, *SCIENCE)
    killer.join()
    assert lost
    assert continued.code == 0, continued.err
    assert f"step {STEPS}: the weights are committed; nothing is trained again" in continued.out
    assert not (folder / "resume").exists()
    assert resumed_after(continued.out) >= second > first
    assert mlflow_status(tmp_path, folder) == ["FINISHED"]

    no_saves = (*PLACE, "--place.save-every-steps", "0")  # they change nothing
    unbroken = command("pretrain", "--run", "unbroken", *place, *no_saves, *SCIENCE)
    assert unbroken.code == 0, unbroken.err
    assert re.search(r"val accuracy 0\.\d+ \(average 0\.\d+\) in", unbroken.out)
    for name in ("weights", "weights_ema"):
        expected, _ = weights.read_weights(str(attempt_folder(root, "unbroken")), name=name)
        found, manifest = weights.read_weights(str(folder), name=name)
        assert found.keys() == expected.keys()
        assert all(found[key].equal(expected[key]) for key in expected)
    metrics = manifest["metrics"]
    assert metrics["val_ema/samples"] == metrics["val/samples"] > 0
    assert metrics["val_ema/loss"] != metrics["val/loss"]


def resumed_after(output: str) -> int:
    """The step a run says it resumed after."""
    (line,) = [line for line in output.splitlines() if "resumed after step" in line]
    return int(line.rsplit(" ", 1)[1])
