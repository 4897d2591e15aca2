"""MLflow: the only file that imports it. One experiment a recipe, one parent run a `--run`, one
child run a stage attempt, however many workers and restarts it took.

Runs are made by the client, not by `mlflow.start_run`, which would tag them with the user, the
script's path and the git remote (whose URL may hold a token).
"""

import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.redaction import redact

os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

from mlflow import MlflowClient  # reads the environment above
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logging.getLogger("mlflow").setLevel(logging.WARNING)  # migrations, monitors starting and stopping

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"
PARENT_RUN = "mlflow.parentRunId"
SQLITE = "sqlite:///"
# Opens the UI on training runs; it takes an experiment for one of prompts otherwise.
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
SYSTEM_SECONDS = 5


class TrackingUnavailable(ValueError):
    """The tracking server or database cannot be used."""


class Tracker:
    """The MLflow run of one stage attempt, written from the driver."""

    def __init__(self, client: MlflowClient, run_id: str, experiment_id: str) -> None:
        self.client, self.run_id, self.experiment_id = client, run_id, experiment_id
        self._monitor: SystemMetricsMonitor | None = None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params once; MLflow keeps the first value of each."""
        known = self.client.get_run(self.run_id).data.params
        new = [Param(key, str(value)) for key, value in params.items() if key not in known]
        for start in range(0, len(new), 100):  # MLflow takes 100 at a time
            self.client.log_batch(self.run_id, params=new[start : start + 100])

    def log_steps(self, records: Sequence[Mapping[str, float]]) -> None:
        """Log the metrics of several steps; each record has its `step`."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, int(record["step"]))
            for record in records
            for name, value in record.items()
            if name != "step"
        ]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + 1000])

    def log_file(self, name: str, data: bytes) -> None:
        """Log small bytes as the artifact `name` (with folders)."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(data)
            parent = str(Path(name).parent)
            self.client.log_artifact(self.run_id, str(path), None if parent == "." else parent)

    def tag(self, **tags: str) -> None:
        """Set tags of the run, under `vit.`."""
        for name, value in tags.items():
            self.client.set_tag(self.run_id, f"vit.{name}", value)

    def watch_system(self) -> None:
        """Log CPU, memory, disk, network (and GPU) of the driver's node until the end."""
        self._monitor = SystemMetricsMonitor(
            self.run_id,
            sampling_interval=SYSTEM_SECONDS,
            samples_before_logging=1,
            tracking_uri=self.client.tracking_uri,
        )
        self._monitor.start()

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        if self._monitor:
            self._monitor.finish()
        self.client.set_terminated(self.run_id, status)


def open_client(uri: str) -> MlflowClient:
    """A client of a tracking server or database that answers.

    Raises:
        TrackingUnavailable: it does not, with what to do.
    """
    try:
        client = MlflowClient(absolute(uri))
        client.search_experiments(max_results=1)
    except Exception as error:  # MLflow raises its own, SQLAlchemy's and requests' alike
        reason = " ".join(str(error).split())[:200]
        raise TrackingUnavailable(
            f"MLflow at {redact(uri)} cannot be used: {redact(reason)} - start the server, or set"
            " place.mlflow_uri (sqlite:///mlflow.db needs none)"
        ) from None
    return client


def open_tracker(
    client: MlflowClient,
    *,
    experiment: str,
    run: str,
    stage: str,
    attempt: str,
    tags: dict[str, str],
) -> Tracker:
    """The run of a stage attempt: continued if this attempt has one, else a new one.

    Args:
        client: from `open_client`.
        experiment: the recipe's name.
        run: the user's `--run`: its stages become child runs of one parent run.
        stage: the stage's name.
        attempt: where the attempt lies; identifies it.
        tags: more tags, under `vit.`.
    """
    experiment_id = _experiment(client, experiment)
    parent = _find(client, experiment_id, {"vit.kind": "run", "vit.run": run})
    if parent is None:
        parent = client.create_run(
            experiment_id, run_name=run, tags={"vit.kind": "run", "vit.run": run}
        )
        client.set_terminated(parent.info.run_id, FINISHED)
    found = _find(client, experiment_id, {"vit.kind": "stage", "vit.attempt": attempt})
    if found is None:
        found = client.create_run(
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
    client.update_run(found.info.run_id, status="RUNNING")
    tracker = Tracker(client, found.info.run_id, experiment_id)
    tracker.tag(**tags)
    return tracker


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    # Beside the database: MLflow's default is ./mlruns of whoever comes first, and the working
    # directory of a submitted job is deleted after it.
    database = client.tracking_uri.removeprefix(SQLITE)
    local = client.tracking_uri.startswith(SQLITE)
    place = Path(database).parent / "mlartifacts" / name if local else None
    try:
        return client.create_experiment(
            name, artifact_location=place and place.as_uri(), tags=MODEL_TRAINING
        )
    except MlflowException:  # another stage made it in this moment
        found = client.get_experiment_by_name(name)
        assert found is not None
        return found.experiment_id


def _find(client: MlflowClient, experiment_id: str, tags: dict[str, str]) -> Run | None:
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    runs = client.search_runs([experiment_id], filter_string=wanted, max_results=1)
    return runs[0] if runs else None


def absolute(uri: str) -> str:
    """A relative SQLite path made absolute: the file is the user's, not the process's."""
    if uri.startswith(SQLITE) and not uri.startswith(SQLITE + "/"):
        return SQLITE + str(Path(uri.removeprefix(SQLITE)).resolve())
    return uri
