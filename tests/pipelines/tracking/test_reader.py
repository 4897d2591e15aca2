"""What is read back of runs: by reports and whoever compares runs."""

from pathlib import Path

import pytest

from pipelines.tracking import client as tracking
from pipelines.tracking import reader as tracking_read
from pipelines.tracking.attempt_run import open_tracker
from pipelines.tracking.tracker import FINISHED


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory):
    return tracking.open_client(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


def stage_run(client, run: str, stage: str, steps: int = 3) -> str:
    tracker = open_tracker(
        client,
        experiment="e",
        run=run,
        stage=stage,
        attempt=f"runs/{run}/{stage}/f",
        tags={"fingerprint": "f"},
        params={"steps": steps},
    )
    tracker.log_steps([{"step": at, "train/loss": 1 / at} for at in range(1, steps + 1)])
    tracker.log_file("pictures/a.png", b"12345")
    tracker.log_file("pictures/more/b.png", b"1234567")
    tracker.end(FINISHED)
    return tracker.run_id


def test_a_run_is_read_with_its_stages_in_order(client) -> None:
    ids = [stage_run(client, "ordered", stage) for stage in ("pretrain", "upscale")]
    stage_run(client, "other", "pretrain")
    found = tracking_read.read_run(client, experiment="e", run="ordered")
    assert found is not None
    parent, stages = found
    assert client.get_run(parent).data.tags["vit.run"] == "ordered"
    assert [one.run_id for one in stages] == ids
    assert [one.tags["vit.stage"] for one in stages] == ["pretrain", "upscale"]
    assert stages[0].params["steps"] == "3"
    assert stages[0].metrics["train/loss"] == pytest.approx(1 / 3)
    assert stages[0].status == FINISHED
    assert (stages[0].ended_ms or 0) >= stages[0].began_ms > 1.6e12


def test_there_is_none(client) -> None:
    assert tracking_read.read_run(client, experiment="nothing", run="r") is None
    stage_run(client, "r", "pretrain")
    assert tracking_read.read_run(client, experiment="e", run="nothing") is None


def test_names_may_hold_the_quotes_of_mlflows_filters(client) -> None:
    experiment = client.create_experiment("quoted")
    run = 'it\'s "quoted" `too`'
    parent = client.create_run(experiment, tags={"vit.kind": "run", "vit.run": run})
    found = tracking_read.read_run(client, experiment="quoted", run=run)
    assert found == (parent.info.run_id, [])


def test_a_step_that_was_logged_twice_has_its_later_value(client) -> None:
    run_id = stage_run(client, "twice", "pretrain")
    client.log_metric(run_id, "train/loss", 9.0, timestamp=2**42, step=2)
    client.log_metric(run_id, "train/loss", 7.0, timestamp=1, step=3)
    history = tracking_read.read_history(client, run_id, "train/loss")
    assert history == [(1, 1.0), (2, 9.0), (3, pytest.approx(1 / 3))]


def test_files_are_listed_read_and_logged(client) -> None:
    run_id = stage_run(client, "files", "pretrain")
    assert tracking_read.list_files(client, run_id, "pictures") == [
        ("pictures/a.png", 5),
        ("pictures/more/b.png", 7),
    ]
    assert tracking_read.read_file(client, run_id, "pictures/more/b.png") == b"1234567"
    place = tracking.log_file(client, run_id, "report.html", b"<p>")
    assert Path(place.removeprefix("file://")).read_bytes() == b"<p>"
