"""Read logged runs from MLflow: metrics, files, parents and children."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.tracking.client import MlflowClient, answering
from pipelines.tracking.run_tree import PARENT_RUN, find_run, search


@dataclass(frozen=True)
class RunRecord:
    """One run as MLflow has it."""

    run_id: str
    name: str
    status: str
    began_ms: int
    ended_ms: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    """Last value of each metric."""


def read_run(
    client: MlflowClient, *, experiment: str, run: str
) -> tuple[str, list[RunRecord]] | None:
    """Return the parent run's id of a `--run`, and its child runs, oldest first; None if unknown.

    Raises:
        TrackingUnavailable: MLflow does not answer.
    """
    with answering(client.tracking_uri):
        known = client.get_experiment_by_name(experiment)
        if known is None:
            return None
        parent = find_run(client, known.experiment_id, {"vit.kind": "run", "vit.run": run})
        if parent is None:
            return None
        below_parent = f"tags.`{PARENT_RUN}` = '{parent.info.run_id}'"
        children = list(search(client, known.experiment_id, below_parent))
    records = [
        RunRecord(
            run_id=child.info.run_id,
            name=child.info.run_name or "",
            status=child.info.status,
            began_ms=child.info.start_time,
            ended_ms=child.info.end_time,
            params=child.data.params,
            tags=child.data.tags,
            metrics=child.data.metrics,
        )
        for child in children
    ]
    return parent.info.run_id, sorted(records, key=lambda child: child.began_ms)


def read_history(client: MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    """Return (step, value) of a metric, ascending; for a step logged twice the later value."""
    with answering(client.tracking_uri):
        points = client.get_metric_history(run_id, metric)
    by_step = {
        point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)
    }
    return sorted(by_step.items())


def list_files(client: MlflowClient, run_id: str, folder: str) -> list[tuple[str, int]]:
    """Return name and size in bytes of a run's artifacts under a folder, sorted by name."""
    with answering(client.tracking_uri):
        entries = client.list_artifacts(run_id, folder)
    files = [(entry.path, entry.file_size or 0) for entry in entries if not entry.is_dir]
    below = [list_files(client, run_id, entry.path) for entry in entries if entry.is_dir]
    return sorted([*files, *(entry for files_below in below for entry in files_below)])


def read_file(client: MlflowClient, run_id: str, name: str) -> bytes:
    """Return the bytes of an artifact."""
    with answering(client.tracking_uri), tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, name, folder)).read_bytes()
