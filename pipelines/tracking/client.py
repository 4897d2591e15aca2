"""The MLflow client: opened once it answers; every error of it is one line with an advice.

Before training starts, a server that does not answer is an error. Afterwards nothing waits for it
(`pipelines/tracking/tracker.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from pipelines.cli.redaction import redact
from pipelines.recipes.errors import Mistake
from pipelines.tracking.advice import SQLITE, advice_for, reason_of, trouble_with_database
from pipelines.tracking.mlflow_run import MlflowRun


class TrackingUnavailable(Mistake):
    """The tracking server or database cannot be used."""


def open_client(uri: str, *, experiment: str | None = None) -> MlflowClient:
    """Return a client of a tracking server or database, after checking that it answers.

    Raises:
        TrackingUnavailable: it does not answer, or the experiment was deleted; says what to do.
    """
    trouble = trouble_with_database(absolute(uri))
    if trouble is not None:
        raise TrackingUnavailable(f"MLflow's database: {trouble}")
    with answering(uri):
        client = MlflowClient(absolute(uri))
        client.search_experiments(max_results=1)
        known = client.get_experiment_by_name(experiment) if experiment else None
    if known is not None:
        check_alive(client, known)
    return client


def check_alive(client: MlflowClient, experiment: Experiment) -> None:
    """Raise TrackingUnavailable for an experiment that was deleted."""
    if experiment.lifecycle_stage != "active":
        uri = redact(client.tracking_uri)
        raise TrackingUnavailable(
            f"MLflow at {uri}: experiment {experiment.name!r} was deleted - restore it with "
            f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore -x {experiment.experiment_id}"
        )


def node_sampler(client: MlflowClient, run_id: str) -> Callable[[], dict[str, float]]:
    """Return a function that samples this node: CPU, memory, disk, network, and GPU if any.

    Only MLflow's probes are used. MLflow's own thread calls the server after every sample, stops
    for good when that fails, and blocks at the end.
    """
    node = SystemMetricsMonitor(run_id, tracking_uri=client.tracking_uri)  # not started

    def sample() -> dict[str, float]:
        node.collect_metrics()
        values = node.aggregate_metrics()
        for monitor in node.monitors:
            monitor.clear_metrics()
        return values

    return sample


def log_file(client: MlflowClient, run_id: str, name: str, data: bytes) -> str:
    """Log an artifact immediately, bypassing the spool; return its URI."""
    with answering(client.tracking_uri):
        MlflowRun(client, run_id).log_file(name, data)
        return f"{client.get_run(run_id).info.artifact_uri}/{name}"


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn any error of MLflow into TrackingUnavailable."""
    try:
        yield
    except TrackingUnavailable:
        raise
    except Exception as error:  # MLflow raises its own errors, SQLAlchemy's and requests'
        raise TrackingUnavailable(
            f"MLflow at {redact(uri)} cannot be used: {reason_of(error)} - {advice_for(error, uri)}"
        ) from None


def absolute(uri: str) -> str:
    """Make a relative SQLite path absolute, so that it survives a change of directory."""
    if uri.startswith(SQLITE) and not uri.startswith(SQLITE + "/"):
        return SQLITE + str(Path(uri.removeprefix(SQLITE)).resolve())
    return uri
