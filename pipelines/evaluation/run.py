"""What `pipelines/evaluate.py` calls: plan, measure, commit, say what came out."""

import hashlib
import json
import math
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import ray
from ray.exceptions import RayError
from rich.console import Console
from rich.table import Table

import storage.errors
from pipelines.evaluation.extract import Extraction
from pipelines.evaluation.measuring import Measured, measure
from pipelines.evaluation.planning import MORE, STAGE, Plan, make_plan
from pipelines.exits import Failed, errors_as_exits
from pipelines.options import program_name, read_command
from pipelines.prepare import resolve_place
from pipelines.progress import clock
from pipelines.ray_session import ray_session
from pipelines.reports import root_cause
from pipelines.run import with_gpus_settled
from pipelines.stage import flatten
from pipelines.tracker import FAILED, FINISHED, KILLED, Tracker
from pipelines.tracking import open_client, open_tracker, settle
from storage import weights
from storage.errors import BadInput, ObjectExists, WeightsExist
from storage.objects import open_store

_MANY = 100  # classes whose accuracies are metrics too; of more, the table has them


def main(description: str) -> NoReturn:
    """Evaluate what the command line says; exit as `pipelines.exits` says."""
    with errors_as_exits():
        signal.signal(signal.SIGTERM, _stop)
        command = read_command(
            sys.argv[1:], stage_name=None, prog=program_name(), description=description, more=MORE
        )
        command = replace(command, place=resolve_place(command.place, cwd=Path.cwd()))
        plan = make_plan(command)
        client = open_client(command.place.mlflow_uri)
        manifest = plan.attempt.manifest
        if manifest is not None:
            print(f"{STAGE}: committed already in {plan.attempt.uri} (--force measures it again)")
            for line in settle(client, manifest):
                print(f"{STAGE}: {line}")
        else:
            with ray_session(verbose=command.place.verbose):
                signal.signal(signal.SIGTERM, _stop)  # again: Ray's own aborts with a stack trace
                place = with_gpus_settled(command).place
                plan = replace(plan, place=place)
                manifest = evaluate(plan, client)
    print_metrics(plan, manifest["metrics"])
    sys.exit(0)


def evaluate(plan: Plan, client: Any) -> dict[str, Any]:
    """Measure under an MLflow run of its own, commit, return the manifest.

    Raises:
        BadInput: the images or the cluster do not do.
        Failed: the cluster failed.
    """
    began = time.monotonic()
    tracker = open_tracker(
        client,
        experiment=plan.recipe,
        run=plan.run,
        stage=STAGE,
        attempt=plan.attempt.uri,
        tags=_tags(plan),
        params=flatten(asdict(plan.protocol)),
    )
    status = FAILED
    try:
        _note(f"{plan.source.name} ({plan.source.average} weights) on {plan.dataset.uri}")
        for line in plan.source.notes:
            _note(line)
        extraction = Extraction(
            plan.source.config, plan.source.tensors(), plan.protocol, plan.place, _note
        )
        manifest = commit(plan, measure(plan, extraction, _note), tracker)
        status = FINISHED
    except RayError as error:
        raise _failure(error) from None
    except KeyboardInterrupt:
        status = KILLED
        raise
    finally:
        tracker.end(status)
        for line in tracker.notices():
            _note(line)
    _note(f"done in {clock(time.monotonic() - began)}, in {plan.attempt.uri}")
    return manifest


def commit(plan: Plan, measured: Measured, tracker: Tracker) -> dict[str, Any]:
    """Write tables and pictures, then the manifest; log all of it.

    Raises:
        BadInput: a metric is no number, because the weights or what they make of an image are none.
        WeightsExist: another process committed the same attempt in the meantime.
    """
    no_number = [name for name, value in measured.metrics.items() if not math.isfinite(value)]
    if no_number:
        raise BadInput(f"{plan.source.uri}: {', '.join(no_number)} came out as no number")
    store, split = open_store(plan.attempt.uri), plan.protocol.split
    metrics = {
        f"{split}/{name}": value
        for name, value in measured.metrics.items()
        if len(plan.class_names) <= _MANY or not _is_of_one_class(name)
    }
    for name, data in measured.files.items():
        store.write(name, data)
    manifest = plan.manifest(mlflow_run_id=tracker.run_id, metrics=metrics) | {
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in measured.files.items()
        }
    }
    text = json.dumps(manifest, indent=1, allow_nan=False).encode() + b"\n"
    try:
        store.write(weights.MANIFEST, text, if_absent=True)
    except ObjectExists:
        raise WeightsExist(f"{store.uri} was committed by another process meanwhile") from None
    tracker.log_steps([{"step": plan.source.step, **metrics}])
    for name, data in measured.files.items():
        tracker.log_file(name, data)
    tracker.log_file(weights.MANIFEST, text)
    return manifest


def print_metrics(plan: Plan, metrics: dict[str, float]) -> None:
    """The numbers but those of single classes, which a table has."""
    table = Table(title=f"{plan.source.name} on {plan.protocol.dataset}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        if not _is_of_one_class(name.partition("/")[2]):
            shown = f"{value:.0f}" if name.endswith("samples") else f"{value:.4g}"
            table.add_row(name, shown)
    Console(soft_wrap=True).print(table)


def _is_of_one_class(name: str) -> bool:
    kind, _, number = name.partition("/")
    return kind == "class_accuracy" and number.isdigit()


def _tags(plan: Plan) -> dict[str, str]:
    lineage = plan.manifest(mlflow_run_id="", metrics={})
    tags = {
        "fingerprint": plan.fingerprint,
        "weights": plan.source.uri,
        "weights_sha256": plan.source.sha256,
        "average": plan.source.average,
        "dataset": plan.dataset.uri,
        "dataset_digest": plan.dataset.digest,
        "ray_job_id": ray.get_runtime_context().get_job_id(),
    }
    if lineage["git_commit"]:
        tags["git_commit"] = lineage["git_commit"]
    return tags | {f"parent.{name}": value for name, value in (lineage["parent"] or {}).items()}


def _failure(error: Exception) -> Exception:
    """What to say of a failed task: a mistake of the user's, or a failure of the world."""
    name, message = root_cause(error)
    kind = getattr(storage.errors, name, None)
    if kind is not None and issubclass(kind, BadInput):
        return BadInput(f"{STAGE}: {message}")
    return Failed(f"{STAGE} failed: {name}: {message}")


def _note(text: str) -> None:
    print(f"{STAGE}: {text}", flush=True)


def _stop(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
