"""Measure weights on Ray, in an MLflow run, and commit what was found."""

import hashlib
import json
import math
import time
from dataclasses import asdict, replace
from typing import Any

import ray
from ray.exceptions import RayError

from pipelines.cli.console import clock
from pipelines.cli.on_ray import on_ray
from pipelines.cli.options import Command
from pipelines.cli.ray_errors import explain_failure
from pipelines.evaluation.evaluation import STAGE, Evaluation, EvaluationOptions
from pipelines.evaluation.evaluators import Measured, measure
from pipelines.evaluation.extract import Extraction
from pipelines.evaluation.metrics_table import is_of_one_class
from pipelines.lineage.manifest import File, Manifest
from pipelines.recipes.fingerprint import flatten
from pipelines.tracking.attempt_run import open_tracker, settle
from pipelines.tracking.client import open_client
from pipelines.tracking.tracker import Tracker
from storage import weights
from storage.errors import BadInput, ObjectExists, WeightsExist
from storage.objects import open_store

_MANY = 100  # with more classes, accuracies of single classes are only in the table


def evaluated(evaluation: Evaluation, command: Command[EvaluationOptions]) -> Manifest:
    """Measure what a command names, or find the committed measurement; Ray starts when needed."""
    client = open_client(command.place.mlflow_uri)
    manifest = evaluation.attempt.manifest
    if manifest is not None:
        _note(f"committed already in {evaluation.attempt.uri} (--force evaluates it again)")
        for line in settle(client, manifest.to_json()):
            _note(line)
        return manifest
    with on_ray(command) as command:
        return evaluate(replace(evaluation, place=command.place), client)


def evaluate(evaluation: Evaluation, client: Any) -> Manifest:
    """Measure in an MLflow run, commit, and return the manifest.

    Raises:
        BadInput: the images or the cluster are unsuitable.
        Failed: the cluster failed.
    """
    began = time.monotonic()
    tracker = open_tracker(
        client,
        experiment=evaluation.recipe,
        run=evaluation.run,
        stage=STAGE,
        attempt=evaluation.attempt.uri,
        tags=_tags(evaluation),
        params=flatten(asdict(evaluation.protocol)),
    )
    with tracker.running(_note):
        _note(f"{evaluation.candidate.kind} on {evaluation.dataset.uri}")
        for line in evaluation.candidate.notes:
            _note(line)
        try:
            extraction = Extraction(
                evaluation.candidate.config,
                evaluation.candidate.tensors(),
                evaluation.protocol,
                evaluation.place,
                _note,
            )
            measured = measure(evaluation, extraction, _note)
        except RayError as error:
            raise explain_failure(STAGE, error) from None
        manifest = commit(evaluation, measured, tracker)
    _note(f"done in {clock(time.monotonic() - began)}, in {evaluation.attempt.uri}")
    return manifest


def commit(evaluation: Evaluation, measured: Measured, tracker: Tracker) -> Manifest:
    """Write tables and pictures, then the manifest; log them all.

    Raises:
        BadInput: a metric is NaN or infinite, because weights or outputs are non-finite.
        WeightsExist: another process committed the same attempt in the meantime.
    """
    non_finite = [name for name, value in measured.metrics.items() if not math.isfinite(value)]
    if non_finite:
        raise BadInput(f"{evaluation.candidate.uri}: non-finite {', '.join(non_finite)}")
    store, split = open_store(evaluation.attempt.uri), evaluation.protocol.split
    metrics = {
        f"{split}/{name}": value
        for name, value in measured.metrics.items()
        if len(evaluation.class_names) <= _MANY or not is_of_one_class(name)
    }
    for name, data in measured.files.items():
        store.write(name, data)
    manifest = replace(
        evaluation.lineage(),
        mlflow_run_id=tracker.run_id,
        metrics=metrics,
        files={
            name: File(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in measured.files.items()
        },
    )
    text = json.dumps(manifest.to_json(), indent=1, allow_nan=False).encode() + b"\n"
    try:
        store.write(weights.MANIFEST, text, if_absent=True)
    except ObjectExists:
        raise WeightsExist(f"{store.uri} was committed by another process meanwhile") from None
    tracker.log_steps([{"step": evaluation.candidate.step, **metrics}])
    for name, data in measured.files.items():
        tracker.log_file(name, data)
    tracker.log_file(weights.MANIFEST, text)
    return manifest


def _tags(evaluation: Evaluation) -> dict[str, str]:
    lineage = evaluation.lineage()
    tags = {
        "fingerprint": evaluation.fingerprint,
        "weights": evaluation.candidate.uri,
        "weights_sha256": evaluation.candidate.sha256,
        "average": evaluation.candidate.average,
        "dataset": evaluation.dataset.uri,
        "dataset_digest": evaluation.dataset.digest,
        "ray_job_id": ray.get_runtime_context().get_job_id(),
    }
    return tags | lineage.tags()


def _note(text: str) -> None:
    print(f"{STAGE}: {text}", flush=True)
