"""The MLflow run of a stage attempt: opened, and finished for a driver that died.

Each recipe has an experiment, each `--run` a parent run, and each stage attempt one child run,
however many workers and restarts it took.

`MlflowClient` creates the runs. `mlflow.start_run` would tag them with the user, the script's path
and the git remote (whose URL may hold a token).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, Run
from mlflow.exceptions import MlflowException

from pipelines.cli.redaction import redact
from pipelines.tracking import run_tree
from pipelines.tracking.advice import SQLITE, reason_of
from pipelines.tracking.client import TrackingUnavailable, answering, check_alive
from pipelines.tracking.history import MetricPoint
from pipelines.tracking.mlflow_run import REFUSALS, MlflowRun
from pipelines.tracking.run_tree import PARENT_RUN, find_run
from pipelines.tracking.spool_file import SpoolInUse, spool_folder
from pipelines.tracking.tracker import FINISHED, Tracker

# Makes the UI open on training runs; by default it expects prompts.
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
_PARAMS = 100  # MLflow's limit per request
_DIGEST = 36  # characters of a dataset's digest that MLflow keeps


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """The dataset of a run, as MLflow shows it among the run's inputs."""

    name: str
    digest: str
    uri: str
    profile: Mapping[str, Any]
    """Numbers about it, for people."""

    def as_input(self) -> DatasetInput:
        """Return MLflow's form of it."""
        kind = "s3" if self.uri.startswith("s3://") else "local"
        found = Dataset(
            name=self.name,
            digest=self.digest[:_DIGEST],
            source_type=kind,
            source=json.dumps({"uri": redact(self.uri)}),
            profile=json.dumps(dict(self.profile)),
        )
        return DatasetInput(found, tags=[InputTag("mlflow.data.context", "training")])


def open_tracker(
    client: MlflowClient,
    *,
    experiment: str,
    run: str,
    stage: str,
    attempt: str,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    dataset: DatasetRecord | None = None,
    copy: Callable[[Sequence[MetricPoint]], None] | None = None,
) -> Tracker:
    """Open the run of a stage attempt: continue it if it exists, else create it.

    Args:
        client: from `open_client`.
        experiment: the recipe's name.
        run: the user's `--run`: its stages become child runs of one parent run.
        stage: the stage's name.
        attempt: the attempt's URI, which identifies it.
        tags: additional tags, prefixed by `vit.`.
        params: logged once; MLflow keeps the first value of each.
        dataset: what is trained on, if anything is.
        copy: is given every metric too.

    Raises:
        TrackingUnavailable: MLflow does not answer, or another process trains this attempt.
    """
    with answering(client.tracking_uri):
        run_id = _run_of(client, experiment=experiment, run=run, stage=stage, attempt=attempt)
    try:
        tracker = Tracker(MlflowRun(client, run_id), run_id, spool_path(run_id), copy=copy)
    except SpoolInUse as error:
        raise TrackingUnavailable(
            f"{error}, which trains the same attempt - wait for it to end, or stop it"
        ) from None
    except OSError as error:
        raise TrackingUnavailable(
            f"metrics for MLflow need a local folder: {error} - set XDG_STATE_HOME"
        ) from None
    try:
        with answering(client.tracking_uri):
            run_record = client.get_run(run_id)
            logged = run_record.data
            tracker.history.carry_over(_newest(run_record))
            run_tree.begin(client, run_record)
            if dataset is not None:
                client.log_inputs(run_id, datasets=[dataset.as_input()])
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


def _newest(run: Run) -> Iterator[MetricPoint]:
    """The newest value of each metric of a run."""
    for metric in run.data.to_proto().metrics:
        yield metric.key, metric.value, metric.timestamp, metric.step


def settle(
    client: MlflowClient, manifest: Mapping[str, Any], *, weights: bool = False
) -> list[str]:
    """Finish the MLflow run of a committed attempt whose driver died or could not reach MLflow.

    Delivers the records that are still in the spool and closes the run as FINISHED.

    Args:
        client: from `open_client`.
        manifest: of the attempt.
        weights: whether it holds weights, which MLflow shows as a model.

    Returns:
        Lines to print.
    """
    run_id = manifest.get("mlflow_run_id")
    if not run_id:
        return []
    try:
        run_record = client.get_run(run_id)
        status = run_record.info.status
        file = spool_path(run_id)
        if status == FINISHED and not file.exists():
            return []
        tracker = Tracker(MlflowRun(client, run_id), run_id, file, continues=False)
    except SpoolInUse:  # its driver is still alive and will do this
        return []
    except Exception as error:  # of MLflow, SQLAlchemy or requests
        if getattr(error, "error_code", None) in REFUSALS:
            return []  # the run is on another server, or deleted
        return [f"warning: its MLflow run cannot be finished: {reason_of(error)}"]
    if status != FINISHED:  # its last evaluation may not have arrived
        tracker.history.carry_over(_newest(run_record))
        tracker.log_steps([{"step": manifest.get("step", 0), **manifest.get("metrics", {})}])
        if "manifest.json" not in tracker.files_waiting:
            tracker.log_file("manifest.json", json.dumps(manifest, indent=1).encode())
        if weights:
            tracker.log_model(manifest.get("step", 0))
    tracker.start()
    tracker.end(FINISHED, ended_ms=tracker.ended_ms)
    return tracker.notices()


def spool_path(run_id: str) -> Path:
    """Return the spool file of a run. Raises OSError if no folder can be written."""
    return spool_folder() / f"{run_id}.jsonl"


def _run_of(client: MlflowClient, *, experiment: str, run: str, stage: str, attempt: str) -> str:
    """Return the id of the attempt's run; create it if it does not exist."""
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
        check_alive(client, known)
        return known.experiment_id
    # Artifacts lie beside the database. MLflow's default is ./mlruns of the first process, and the
    # working directory of a submitted job is deleted when it ends.
    database = client.tracking_uri.removeprefix(SQLITE)
    local = client.tracking_uri.startswith(SQLITE)
    artifacts = Path(database).parent / "mlartifacts" / name if local else None
    try:
        return client.create_experiment(
            name, artifact_location=artifacts and artifacts.as_uri(), tags=MODEL_TRAINING
        )
    except MlflowException:  # another stage created it at the same moment
        known = client.get_experiment_by_name(name)
        assert known is not None
        return known.experiment_id
