"""Runs by their tags, and what a parent run says of the stages below it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.tracking.attempt_run import DatasetRecord, open_tracker, spool_path
from pipelines.tracking.client import TrackingUnavailable, open_client
from pipelines.tracking.mlflow_run import MlflowRun
from pipelines.tracking.reader import read_run
from pipelines.tracking.run_tree import DRIVER, PARENT_RUN
from pipelines.tracking.tracker import FAILED, FINISHED, KILLED, Tracker

DIGITS = DatasetRecord(
    name="digits",
    digest="0123456789abcdef" * 4,
    uri="s3://key:secret@bucket/digits",
    profile={"classes": 10, "samples": {"train": 1420, "val": 377}},
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def client(uri: str) -> Any:
    return open_client(uri)


@pytest.fixture
def begin(client: Any) -> Iterator[Callable[..., Tracker]]:
    opened: list[Tracker] = []

    def begin(run: str, stage: str, attempt: str = "") -> Tracker:
        opened.append(
            open_tracker(
                client,
                experiment="e",
                run=run,
                stage=stage,
                attempt=attempt or f"runs/{run}/{stage}",
                tags={},
                params={},
                dataset=DIGITS,
            )
        )
        return opened[-1]

    yield begin
    for one in opened:
        one.release()


def status(client: Any, run_id: str) -> str:
    return client.get_run(run_id).info.status


def parent(client: Any, run_id: str) -> str:
    return client.get_run(run_id).data.tags[PARENT_RUN]


@pytest.mark.parametrize("name", ["kim's run", 'a "b"', "both ' and \"", "50 %_\\x"])
def test_a_name_with_quotes_is_found_again(
    client: Any, begin: Callable[..., Tracker], name: str
) -> None:
    first = begin(name, "pretrain")
    first.end(FINISHED)
    again = begin(name, "pretrain")
    assert again.run_id == first.run_id
    other = begin(name, "upscale")
    assert parent(client, other.run_id) == parent(client, first.run_id)
    again.end(FINISHED)
    other.end(FINISHED)
    found = read_run(client, experiment="e", run=name)
    assert found is not None
    assert [record.run_id for record in found[1]] == [first.run_id, other.run_id]


def test_a_parent_runs_while_a_stage_does_and_ends_as_the_last(
    client: Any, begin: Callable[..., Tracker]
) -> None:
    one, other = begin("r", "pretrain"), begin("r", "upscale")
    above = parent(client, one.run_id)
    assert status(client, above) == "RUNNING"
    one.end(FAILED)
    assert status(client, above) == "RUNNING"
    other.end(FINISHED)
    assert status(client, above) == FINISHED
    one = begin("r", "pretrain")
    assert status(client, above) == "RUNNING"
    one.end(KILLED)
    assert status(client, above) == KILLED


DYING = """
import os, sys
from pipelines.tracking.attempt_run import open_tracker
from pipelines.tracking.client import open_client
run = open_tracker(open_client(sys.argv[1]), experiment="e", run="dead", stage="pretrain",
                   attempt="runs/dead/pretrain", tags={}, params={})
print(run.run_id, flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_a_dead_driver_left_is_closed_by_the_next(
    client: Any, uri: str, begin: Callable[..., Tracker]
) -> None:
    dying = subprocess.run([sys.executable, "-c", DYING, uri], capture_output=True, text=True)
    left = dying.stdout.strip()
    assert status(client, left) == "RUNNING", dying.stderr
    elsewhere = begin("dead", "finetune", "runs/dead/elsewhere")
    client.set_tag(elsewhere.run_id, DRIVER, "another-machine")
    elsewhere.release()
    spool_path(elsewhere.run_id).unlink(missing_ok=True)
    living = begin("dead", "finetune")
    following = begin("dead", "upscale")
    assert status(client, left) == KILLED
    assert client.get_run(left).info.end_time >= client.get_run(left).info.start_time
    assert status(client, living.run_id) == "RUNNING"
    assert status(client, elsewhere.run_id) == "RUNNING"  # nobody here can tell
    following.end(FINISHED)
    living.end(FINISHED)


def test_a_deleted_experiment_says_how_to_restore_it(
    client: Any, uri: str, begin: Callable[..., Tracker]
) -> None:
    number = client.create_experiment("gone")
    client.delete_experiment(number)
    wanted = (
        f"'gone' was deleted - restore it with MLFLOW_TRACKING_URI={uri} mlflow experiments restore"
    )
    with pytest.raises(TrackingUnavailable) as caught:
        open_client(uri, experiment="gone")
    assert f"{wanted} -x {number}" in str(caught.value)


@pytest.mark.parametrize("place", ["/proc", "/dev/null"])
def test_a_database_that_cannot_be_written_is_said_at_once(place: str) -> None:
    with pytest.raises(TrackingUnavailable, match=r"cannot be written .* - set --place.mlflow-uri"):
        open_client(f"sqlite:///{place}/m.db")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrackingUnavailable, match=f"there is no folder {tmp_path / 'no'}"):
        open_client(f"sqlite:///{tmp_path / 'no' / 'm.db'}")


def test_a_locked_database_prints_no_traceback(uri: str) -> None:
    code = (
        "import sqlite3, sys\n"
        "from pipelines.tracking.client import open_client\n"
        "client = open_client(sys.argv[1])\n"
        "run = client.create_run('0').info.run_id\n"
        "lock = sqlite3.connect(sys.argv[1].removeprefix('sqlite:///'))\n"
        "lock.execute('BEGIN EXCLUSIVE')\n"
        "import sqlalchemy.sql  # MLflow waits 20 s for the lock\n"
        "text = sqlalchemy.text\n"
        "sqlalchemy.text = sqlalchemy.sql.text = lambda s: text(s.replace('20000', '10'))\n"
        "try: client.log_metric(run, 'a', 1.0)\n"
        "except Exception as error: print('locked' if 'locked' in str(error) else error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True)
    assert done.stdout == "locked\n", done.stderr
    assert "Traceback" not in done.stderr


def test_the_first_table_shows_what_the_stages_reached(
    client: Any, begin: Callable[..., Tracker]
) -> None:
    run_id = ""
    for stage, accuracy in (("pretrain", 0.5), ("finetune", 0.75)):
        tracker = begin("table", stage)
        run_id = tracker.run_id
        tracker.log_steps([{"step": 9, "val/accuracy": accuracy, "train/loss": 1.0}])
        tracker.log_steps([{"step": 10, "val/accuracy": accuracy - 0.25, "train/loss": 1.0}])
        tracker.log_model(9)  # the best is kept
        tracker.end(FINISHED)
    found = client.get_run(parent(client, run_id)).data.metrics
    assert found == {"pretrain/val/accuracy": 0.5, "finetune/val/accuracy": 0.75}


def test_the_dataset_is_an_input_of_the_run_once(
    client: Any, begin: Callable[..., Tracker]
) -> None:
    begin("fed", "pretrain").end(KILLED)
    tracker = begin("fed", "pretrain")  # a restart
    tracker.end(KILLED)
    (one,) = client.get_run(tracker.run_id).inputs.dataset_inputs
    assert (one.dataset.name, one.dataset.digest) == ("digits", DIGITS.digest[:36])
    assert "secret" not in one.dataset.source
    assert json.loads(one.dataset.profile) == DIGITS.profile


def test_the_weights_are_a_model_of_the_run_once(
    client: Any, begin: Callable[..., Tracker]
) -> None:
    tracker = begin("weighed", "finetune", "runs/weighed")
    tracker.log_steps([{"step": 8, "val/accuracy": 0.25}, {"step": 10, "val/accuracy": 0.75}])
    for _ in range(2):
        tracker.log_model(10)
    tracker.end(FINISHED)
    run = client.get_run(tracker.run_id)
    (model,) = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{tracker.run_id}'"
    )
    assert (model.name, model.status.value) == ("weighed-finetune", "READY")
    assert model.tags["vit.weights"] == "runs/weighed"
    assert [(m.key, m.value, m.step) for m in model.metrics] == [("val/accuracy", 0.75, 10)]
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert run.data.metrics["val/accuracy"] == 0.75
    points = client.get_metric_history(tracker.run_id, "val/accuracy")
    assert [(point.step, point.value) for point in points] == [(8, 0.25), (10, 0.75)]


def test_a_model_that_an_outage_left_half_made_is_completed(
    client: Any, begin: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = begin("outage", "finetune")
    tracker.log_steps([{"step": 10, "val/accuracy": 0.75}])
    tracker.release()
    run = MlflowRun(client, tracker.run_id)

    def away(*arguments: object, **options: object) -> None:
        raise ConnectionError("MLflow is away")

    with monkeypatch.context() as outage:
        outage.setattr(client, "log_outputs", away)
        with pytest.raises(ConnectionError):
            run.log_model(10)
    run.log_model(10)
    found = client.get_run(tracker.run_id)
    (model,) = client.search_logged_models(
        [found.info.experiment_id], filter_string=f"source_run_id = '{tracker.run_id}'"
    )
    assert model.status.value == "READY"
    assert [output.model_id for output in found.outputs.model_outputs] == [model.model_id]
