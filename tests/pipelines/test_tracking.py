from pathlib import Path

import pytest

from pipelines.redaction import redact
from pipelines.tracking import (
    FINISHED,
    Tracker,
    TrackingUnavailable,
    absolute,
    open_client,
    open_tracker,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory):
    return open_client(f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")


def tracker(client, stage: str, attempt: str, run: str = "r") -> Tracker:
    return open_tracker(
        client, experiment="e", run=run, stage=stage, attempt=attempt, tags={"fingerprint": "f"}
    )


def test_an_attempt_has_one_run_across_restarts(client) -> None:
    first = tracker(client, "pretrain", "runs/a")
    first.end("KILLED")
    again = tracker(client, "pretrain", "runs/a")
    assert again.run_id == first.run_id
    assert client.get_run(first.run_id).info.status == "RUNNING"
    assert tracker(client, "pretrain", "runs/b").run_id != first.run_id


def test_stages_of_a_run_share_one_parent_run(client) -> None:
    parents = {
        client.get_run(tracker(client, stage, f"runs/{stage}").run_id).data.tags[
            "mlflow.parentRunId"
        ]
        for stage in ("pretrain", "upscale")
    }
    assert len(parents) == 1
    other = tracker(client, "pretrain", "runs/other", run="other")
    assert client.get_run(other.run_id).data.tags["mlflow.parentRunId"] not in parents


def test_metrics_of_every_step_and_params_arrive(client) -> None:
    run = tracker(client, "pretrain", "runs/metrics")
    run.log_params({"optim.peak_lr": 0.1, **{f"p{i}": i for i in range(150)}})
    run.log_params({"optim.peak_lr": 0.1})  # again, after a restart
    run.log_steps([{"step": step, "train/loss": 1.0 / step} for step in range(1, 1501)])
    run.log_file("pictures/batch.png", b"png")
    run.end(FINISHED)
    found = client.get_run(run.run_id)
    assert found.info.status == FINISHED
    assert len(found.data.params) == 151
    history = client.get_metric_history(run.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(s, 1.0 / s) for s in range(1, 1501)]
    assert [a.path for a in client.list_artifacts(run.run_id, "pictures")] == ["pictures/batch.png"]


def test_runs_carry_no_user_script_or_git_remote(client) -> None:
    tags = client.get_run(tracker(client, "pretrain", "runs/tags").run_id).data.tags
    assert not {"mlflow.user", "mlflow.source.name", "mlflow.source.git.repoURL"} & tags.keys()


def test_an_unreachable_server_is_one_line_within_seconds() -> None:
    with pytest.raises(TrackingUnavailable, match=r"MLflow at http://\*\*\*@127.0.0.1:9 cannot"):
        open_client("http://me:secret@127.0.0.1:9")


def test_artifacts_lie_beside_the_database(client) -> None:
    run = tracker(client, "pretrain", "runs/artifacts")
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
