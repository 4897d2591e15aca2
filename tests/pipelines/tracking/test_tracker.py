import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.cli.redaction import redact
from pipelines.tracking import spool as spool_module
from pipelines.tracking import tracker as tracker_module
from pipelines.tracking.attempt_run import open_tracker, settle, spool_path
from pipelines.tracking.client import TrackingUnavailable, absolute, node_sampler, open_client
from pipelines.tracking.tracker import FAILED, FINISHED, KILLED, Tracker


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory):
    return open_client(f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")


@pytest.fixture
def tracker(client) -> Iterator[Callable[..., Tracker]]:
    """Open the tracker of an attempt; those that are not ended are released."""
    opened: list[Tracker] = []

    def tracker(stage: str, attempt: str, run: str = "r", **params: object) -> Tracker:
        opened.append(
            open_tracker(
                client,
                experiment="e",
                run=run,
                stage=stage,
                attempt=attempt,
                tags={"fingerprint": "f"},
                params=params,
            )
        )
        return opened[-1]

    yield tracker
    for one in opened:
        one.release()


def history(client, run_id: str, name: str = "train/loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.get_metric_history(run_id, name)]


def test_an_attempt_has_one_run_across_restarts(client, tracker) -> None:
    first = tracker("pretrain", "runs/a")
    first.end(KILLED)
    assert client.get_run(first.run_id).info.status == KILLED
    again = tracker("pretrain", "runs/a")
    assert again.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    assert tracker("pretrain", "runs/b").run_id != first.run_id


def test_an_attempt_is_trained_by_one_process(tracker) -> None:
    tracker("pretrain", "runs/twice")
    with pytest.raises(TrackingUnavailable, match="another process, which trains the same attempt"):
        tracker("pretrain", "runs/twice")


def test_stages_of_a_run_share_one_parent_run(client, tracker) -> None:
    parents = {
        client.get_run(tracker(stage, f"runs/{stage}").run_id).data.tags["mlflow.parentRunId"]
        for stage in ("pretrain", "upscale")
    }
    assert len(parents) == 1
    other = tracker("pretrain", "runs/other", run="other")
    assert client.get_run(other.run_id).data.tags["mlflow.parentRunId"] not in parents


def test_metrics_of_every_step_and_params_arrive(client, tracker) -> None:
    params = {"optim.peak_lr": 0.1, **{f"p{i}": i for i in range(150)}}
    run = tracker("pretrain", "runs/metrics", **params)
    run.log_steps([{"step": step, "train/loss": 1.0 / step} for step in range(1, 1501)])
    run.log_file("pictures/batch.png", b"png")
    run.end(FINISHED)
    tracker("pretrain", "runs/metrics", **params).end(FINISHED)  # the same ones again
    found = client.get_run(run.run_id)
    assert found.info.status == FINISHED
    assert len(found.data.params) == 151
    assert history(client, run.run_id) == [(s, 1.0 / s) for s in range(1, 1501)]
    assert [a.path for a in client.list_artifacts(run.run_id, "pictures")] == ["pictures/batch.png"]
    assert not spool_path(run.run_id).exists()
    assert run.notices() == []


def test_steps_of_an_earlier_process_are_not_logged_again(client, tracker) -> None:
    first = tracker("pretrain", "runs/repeated")
    first.log_start(0)
    first.log_steps([{"step": step, "train/loss": float(step)} for step in range(1, 31)])
    first.end(FAILED)
    second = tracker("pretrain", "runs/repeated")
    second.log_start(20)
    second.log_steps([{"step": step, "train/loss": -1.0} for step in range(21, 41)])
    second.log_steps([{"step": 40, "val/accuracy": 0.5}])
    second.end(FINISHED)
    run = second.run_id
    expected = [(s, float(s)) for s in range(1, 31)] + [(s, -1.0) for s in range(31, 41)]
    assert history(client, run) == expected
    assert history(client, run, "train/restarts") == [(0, 0.0), (30, 1.0)]
    assert history(client, run, "train/lost_steps") == [(0, 0.0), (30, 10.0)]
    assert client.get_run(run).data.metrics["train/lost_steps"] == 10
    assert history(client, run, "val/accuracy") == [(40, 0.5)]


def test_system_metrics_go_on_numbering(client, tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "SYSTEM_SECONDS", 0.05)
    name = "system/cpu_utilization_percentage"
    run_id = ""
    for _ in range(2):
        run = tracker("pretrain", "runs/system")
        run_id = run.run_id
        before = len(history(client, run.run_id, name))
        run.watch(node_sampler(client, run.run_id), "system/")
        end = time.monotonic() + 30
        while len(history(client, run.run_id, name)) < before + 3:
            assert time.monotonic() < end
            time.sleep(0.05)
        run.end(FINISHED)
    found = [step for step, _ in history(client, run_id, name)]
    assert found == list(range(len(found)))


def test_monitors_say_nothing_where_mlflow_was_imported_before_us(tmp_path: Path) -> None:
    code = (
        "import mlflow\n"
        "from pipelines.tracking.client import node_sampler, open_client\n"
        "node_sampler(open_client('sqlite:///mlflow.db'), 'run')()\n"
    )
    environment = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "system_metrics" not in done.stderr


@pytest.mark.parametrize("error", [ValueError, MemoryError, SystemExit])
def test_threads_that_die_are_warned_of(
    client, tracker, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*arguments: object) -> dict[str, float]:
        raise error("unexpected")

    monkeypatch.setattr(tracker_module, "SYSTEM_SECONDS", 0.01)
    run = tracker("pretrain", f"runs/died-{error.__name__}")
    monkeypatch.setattr(spool_module.Spool, "_read", fail)
    run.watch(fail, "system/")
    run.log_steps([{"step": 1, "train/loss": 1.0}])
    lines: list[str] = []
    end = time.monotonic() + 20
    while len(lines) < 2 and time.monotonic() < end:
        lines += run.notices()
        time.sleep(0.01)
    delivery, samples = sorted(lines)
    assert f"gets no more metrics: {error.__name__}: unexpected" in delivery
    assert f"no more metrics of system/ {error.__name__}: unexpected" in samples
    began = time.monotonic()
    run.end(FINISHED)
    assert time.monotonic() - began < 5
    assert any("records for MLflow are kept" in line for line in run.notices())


def test_a_file_that_cannot_be_stored_holds_back_nothing(client, tracker) -> None:
    run = tracker("pretrain", "runs/full")
    artifacts = Path(client.get_run(run.run_id).info.artifact_uri.removeprefix("file://"))
    artifacts.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_text("in the way")
    run.log_file("picture.png", b"png")
    run.log_steps([{"step": 1, "train/loss": 1.0}])
    run.end(FINISHED)
    assert history(client, run.run_id) == [(1, 1.0)]
    (line,) = [line for line in run.notices() if line.startswith("warning: picture.png")]
    assert "picture.png is not in MLflow" in line


def test_a_run_that_was_deleted_takes_nothing_and_blocks_nothing(client, tracker) -> None:
    run = tracker("pretrain", "runs/deleted")
    client.delete_run(run.run_id)
    run.log_steps([{"step": 1, "train/loss": 1.0}])
    began = time.monotonic()
    run.end(FINISHED)
    assert time.monotonic() - began < 10
    (line,) = run.notices()
    assert "MLflow refuses records" in line
    assert "deleted" in line
    client.restore_run(run.run_id)


def test_a_committed_attempt_whose_driver_was_killed_is_finished(client, tracker) -> None:
    run = tracker("pretrain", "runs/settled")
    run.log_steps([{"step": 3, "val/accuracy": 0.5}])
    while not history(client, run.run_id, "val/accuracy"):
        time.sleep(0.01)
    metrics = {"val/accuracy": 0.5, "val/loss": 0.25}  # of which one was heard
    manifest = {"mlflow_run_id": run.run_id, "step": 3, "metrics": metrics}
    assert settle(client, manifest) == []  # its driver lives
    assert client.get_run(run.run_id).info.status == "RUNNING"
    run.release()  # as the kernel does for a process that is killed
    assert settle(client, manifest, weights=True) == []
    found = client.get_run(run.run_id)
    assert found.info.status == FINISHED
    assert [output.step for output in found.outputs.model_outputs] == [3]
    assert [a.path for a in client.list_artifacts(run.run_id)] == ["manifest.json"]
    assert settle(client, manifest) == []
    for name, value in metrics.items():
        assert history(client, run.run_id, name) == [(3, value)]
    assert settle(client, {"mlflow_run_id": "0" * 32}) == []  # of another server
    assert settle(client, {}) == []


def test_runs_carry_no_user_script_or_git_remote(client, tracker) -> None:
    tags = client.get_run(tracker("pretrain", "runs/tags").run_id).data.tags
    assert not {"mlflow.user", "mlflow.source.name", "mlflow.source.git.repoURL"} & tags.keys()


def test_an_unreachable_server_is_one_line_within_seconds() -> None:
    with pytest.raises(TrackingUnavailable, match=r"MLflow at http://\*\*\*@127.0.0.1:9 cannot"):
        open_client("http://me:secret@127.0.0.1:9")


def test_artifacts_lie_beside_the_database(client, tracker) -> None:
    run = tracker("pretrain", "runs/artifacts")
    database = Path(client.tracking_uri.removeprefix("sqlite:///"))
    uri = client.get_run(run.run_id).info.artifact_uri
    assert uri.startswith((database.parent / "mlartifacts" / "e").as_uri())


def test_passwords_are_hidden_and_paths_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert redact("https://me:secret@host/x") == "https://***@host/x"
    assert redact("sqlite:///mlflow.db") == "sqlite:///mlflow.db"
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute("sqlite:////var/mlflow.db") == "sqlite:////var/mlflow.db"
