"""One run on an MLflow server: what a tracker sends there."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException

from pipelines.cli.redaction import redact
from pipelines.tracking import run_tree
from pipelines.tracking.history import MetricPoint
from pipelines.tracking.server import Refused

_METRICS = 1000  # MLflow's limit per request
# Errors of records that MLflow will never accept: a deleted run, a bad name.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
EXTERNAL = {"mlflow.model.isExternal": "true"}
"""Tag of a model whose files lie elsewhere."""


class MlflowRun:
    """One run on an MLflow server: implements `pipelines.tracking.server.Server`."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self.name = redact(client.tracking_uri)

    def log_points(self, points: Sequence[MetricPoint]) -> None:
        """Log metrics. Repeats are harmless: MLflow's key is name, step, time and value."""
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

    def log_model(self, step: int) -> None:
        """Add the run's weights as a model by reference, with the run's `val` metrics of the step.

        A model that is complete is left as it is; one that an outage left half made is completed.
        """
        with _refusals():
            run = self._client.get_run(self._run_id)
            experiment = run.info.experiment_id
            mine = f"source_run_id = '{self._run_id}'"
            known = self._client.search_logged_models([experiment], filter_string=mine)
            if known and known[0].status == LoggedModelStatus.READY:
                return
            tags = run.data.tags
            shown = {"vit.weights": tags["vit.attempt"]}
            if "vit.fingerprint" in tags:
                shown["vit.fingerprint"] = tags["vit.fingerprint"]
            model = (
                known[0]
                if known
                else self._client.create_logged_model(
                    experiment,
                    name=f"{tags['vit.run']}-{tags['vit.stage']}",
                    source_run_id=self._run_id,
                    tags={**EXTERNAL, **shown},
                    model_type="image-classifier",
                )
            )
            measured = [
                Metric(m.key, m.value, m.timestamp, m.step, model_id=model.model_id)
                for m in run_tree.evaluated(self._client, run, step)
            ]
            self._client.log_batch(self._run_id, metrics=measured)
            output = LoggedModelOutput(model_id=model.model_id, step=step)
            self._client.log_outputs(self._run_id, models=[output])
            self._client.finalize_logged_model(model.model_id, "READY")

    def end(self, status: str, ended_ms: int) -> None:
        """Close the run."""
        with _refusals():
            run_tree.end(self._client, self._run_id, status, ended_ms)

    def answer(self) -> None:
        """Raise if MLflow does not answer."""
        self._client.get_run(self._run_id)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if error.error_code in REFUSALS:
            raise Refused(str(error)) from None
        raise
