"""MLflow: the only file that imports it. One experiment a recipe, one parent run a `--run`, one
child run a stage attempt, however many workers and restarts it took.

Until training starts, a server that does not answer is an error. From then on nothing waits for it
(`pipelines/tracking/tracker.py`).

Runs are made by the client, not by `mlflow.start_run`, which would tag them with the user, the
script's path and the git remote (whose URL may hold a token).
"""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.cli.redaction import redact
from pipelines.recipes.errors import Mistake
from pipelines.tracking import run_tree
from pipelines.tracking.advice import SQLITE, advice_for, reason_of, trouble_with_database
from pipelines.tracking.history import MetricPoint
from pipelines.tracking.run_tree import PARENT_RUN, find_run
from pipelines.tracking.spool import SpoolInUse, spool_folder
from pipelines.tracking.tracker import FINISHED, Refused, Tracker

os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the spool tries again too
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # at every run's end
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

from mlflow import MlflowClient  # reads the environment above
from mlflow.entities import Experiment, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logging.getLogger("mlflow").setLevel(logging.WARNING)  # migrations, monitors starting and stopping
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks; raised, too
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line for every retry

# Opens the UI on training runs; it takes an experiment for one of prompts otherwise.
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
_PARAMS, _METRICS = 100, 1000  # MLflow takes so many at a time
# What MLflow says to a record that it will never take: a run that was deleted, a bad name.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")


class TrackingUnavailable(Mistake):
    """The tracking server or database cannot be used."""


class MlflowRun:
    """A `pipelines.tracker.Server`: one run, by MLflow's client."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self.name = redact(client.tracking_uri)

    def log_points(self, points: Sequence[MetricPoint]) -> None:
        """Log metrics. One sent again is the same one: MLflow's key is name, step, time, value."""
        for start in range(0, len(points), _METRICS):
            batch = [Metric(*point) for point in points[start : start + _METRICS]]
            with _refusals():
                self._client.log_batch(self._run_id, metrics=batch)

    def log_file(self, name: str, data: bytes) -> None:
        """Log an artifact."""
        with tempfile.TemporaryDirectory() as folder, _refusals():
            path = Path(folder) / Path(name).name
            path.write_bytes(data)
            parent = str(Path(name).parent)
            self._client.log_artifact(self._run_id, str(path), None if parent == "." else parent)

    def end(self, status: str, ended_ms: int) -> None:
        """Close the run."""
        with _refusals():
            run_tree.end(self._client, self._run_id, status, ended_ms)

    def answer(self) -> None:
        """Raise if MLflow is away."""
        self._client.get_run(self._run_id)


def open_client(uri: str, *, experiment: str | None = None) -> MlflowClient:
    """A client of a tracking server or database that answers.

    Raises:
        TrackingUnavailable: it does not, or the experiment was deleted; with what to do.
    """
    trouble = trouble_with_database(absolute(uri))
    if trouble is not None:
        raise TrackingUnavailable(f"MLflow's database: {trouble}")
    with answering(uri):
        client = MlflowClient(absolute(uri))
        client.search_experiments(max_results=1)
        known = client.get_experiment_by_name(experiment) if experiment else None
    if known is not None:
        _check_alive(client, known)
    return client


def _check_alive(client: MlflowClient, experiment: Experiment) -> None:
    if experiment.lifecycle_stage != "active":
        uri = redact(client.tracking_uri)
        raise TrackingUnavailable(
            f"MLflow at {uri}: experiment {experiment.name!r} was deleted - restore it: "
            f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore -x {experiment.experiment_id}"
        )


def open_tracker(
    client: MlflowClient,
    *,
    experiment: str,
    run: str,
    stage: str,
    attempt: str,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
) -> Tracker:
    """The run of a stage attempt: continued if this attempt has one, else a new one.

    Args:
        client: from `open_client`.
        experiment: the recipe's name.
        run: the user's `--run`: its stages become child runs of one parent run.
        stage: the stage's name.
        attempt: where the attempt lies; identifies it.
        tags: more tags, under `vit.`.
        params: logged once; MLflow keeps the first value of each.

    Raises:
        TrackingUnavailable: MLflow does not answer, or another process trains this attempt.
    """
    with answering(client.tracking_uri):
        run_id = _run_of(client, experiment=experiment, run=run, stage=stage, attempt=attempt)
    try:
        tracker = Tracker(MlflowRun(client, run_id), run_id, spool_path(run_id))
    except SpoolInUse as error:
        raise TrackingUnavailable(
            f"{error}, which trains the same attempt - wait for it, or stop it"
        ) from None
    except OSError as error:
        raise TrackingUnavailable(f"metrics on their way need a folder: {error}") from None
    try:
        with answering(client.tracking_uri):
            run_record = client.get_run(run_id)
            logged = run_record.data
            tracker.history.carry_over(
                (metric.key, metric.value, metric.timestamp, metric.step)
                for metric in logged.to_proto().metrics
            )
            run_tree.begin(client, run_record)
            for name, value in tags.items():
                client.set_tag(run_id, f"vit.{name}", value)
            new = [Param(k, str(value)) for k, value in params.items() if k not in logged.params]
            for start in range(0, len(new), _PARAMS):
                client.log_batch(run_id, params=new[start : start + _PARAMS])
    except BaseException:
        tracker.release()
        raise
    tracker.start()
    return tracker


def settle(client: MlflowClient, manifest: Mapping[str, Any]) -> list[str]:
    """Bring the run of a committed attempt to its end, should its driver have died or MLflow have
    been away: deliver what is kept, close it as FINISHED. Returns lines for a person."""
    run_id = manifest.get("mlflow_run_id")
    if not run_id:
        return []
    try:
        status = client.get_run(run_id).info.status
        file = spool_path(run_id)
        if status == FINISHED and not file.exists():
            return []
        tracker = Tracker(MlflowRun(client, run_id), run_id, file, continues=False)
    except SpoolInUse:  # its driver is about to do this
        return []
    except Exception as error:  # MLflow's, SQLAlchemy's and requests' own
        if getattr(error, "error_code", None) in _REFUSALS:
            return []  # a run of another server, or deleted
        return [f"warning: its MLflow run cannot be brought to its end: {reason_of(error)}"]
    if status != FINISHED and "manifest.json" not in tracker.files_waiting:
        tracker.log_file("manifest.json", json.dumps(manifest, indent=1).encode())
    tracker.start()
    tracker.end(FINISHED, ended_ms=tracker.ended_ms)
    return tracker.notices()


def node_sampler(client: MlflowClient, run_id: str) -> Callable[[], dict[str, float]]:
    """What samples this node: CPU, memory, disk, network, and GPU where there is one.

    Only MLflow's probes are used: its own thread asks the server after every sample, ends for good
    where that does not answer, and is waited for at the end.
    """
    node = SystemMetricsMonitor(run_id, tracking_uri=client.tracking_uri)  # not started

    def sample() -> dict[str, float]:
        node.collect_metrics()
        values = node.aggregate_metrics()
        for monitor in node.monitors:
            monitor.clear_metrics()
        return values

    return sample


def spool_path(run_id: str) -> Path:
    """Where the metrics of a run wait for MLflow. Raises OSError if no folder can be written."""
    return spool_folder() / f"{run_id}.jsonl"


def log_file(client: MlflowClient, run_id: str, name: str, data: bytes) -> str:
    """Log an artifact at once, beside a run's tracker; returns where it lies."""
    with answering(client.tracking_uri):
        MlflowRun(client, run_id).log_file(name, data)
        return f"{client.get_run(run_id).info.artifact_uri}/{name}"


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Make TrackingUnavailable of whatever MLflow raises."""
    try:
        yield
    except TrackingUnavailable:
        raise
    except Exception as error:  # MLflow raises its own, SQLAlchemy's and requests' alike
        raise TrackingUnavailable(
            f"MLflow at {redact(uri)} cannot be used: {reason_of(error)} - {advice_for(error)}"
        ) from None


def _run_of(client: MlflowClient, *, experiment: str, run: str, stage: str, attempt: str) -> str:
    """Id of the attempt's run, made if there is none."""
    experiment_id = _experiment(client, experiment)
    parent = find_run(client, experiment_id, {"vit.kind": "run", "vit.run": run})
    if parent is None:
        parent = client.create_run(
            experiment_id, run_name=run, tags={"vit.kind": "run", "vit.run": run}
        )
    stage_run = find_run(client, experiment_id, {"vit.kind": "stage", "vit.attempt": attempt})
    if stage_run is None:
        stage_run = client.create_run(
            experiment_id,
            run_name=f"{run}/{stage}",
            tags={
                PARENT_RUN: parent.info.run_id,
                "vit.kind": "stage",
                "vit.run": run,
                "vit.stage": stage,
                "vit.attempt": attempt,
            },
        )
    return stage_run.info.run_id


def _experiment(client: MlflowClient, name: str) -> str:
    known = client.get_experiment_by_name(name)
    if known is not None:
        _check_alive(client, known)
        return known.experiment_id
    # Beside the database: MLflow's default is ./mlruns of whoever comes first, and the working
    # directory of a submitted job is deleted after it.
    database = client.tracking_uri.removeprefix(SQLITE)
    local = client.tracking_uri.startswith(SQLITE)
    artifacts = Path(database).parent / "mlartifacts" / name if local else None
    try:
        return client.create_experiment(
            name, artifact_location=artifacts and artifacts.as_uri(), tags=MODEL_TRAINING
        )
    except MlflowException:  # another stage made it in this moment
        known = client.get_experiment_by_name(name)
        assert known is not None
        return known.experiment_id


def absolute(uri: str) -> str:
    """A relative SQLite path made absolute: the file is the user's, not the process's."""
    if uri.startswith(SQLITE) and not uri.startswith(SQLITE + "/"):
        return SQLITE + str(Path(uri.removeprefix(SQLITE)).resolve())
    return uri


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if error.error_code in _REFUSALS:
            raise Refused(str(error)) from None
        raise
