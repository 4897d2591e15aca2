"""Check what a run uses beside this machine: MLflow, the data, the checkpoint it starts from."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipelines.checks.finding import Finding, fail, ok
from pipelines.checks.gpu_nodes import check_gpu_nodes
from pipelines.checks.ray_cluster import check_ray
from pipelines.checks.storage_root import check_clock, check_storage, impatient_store
from pipelines.cli.options import Command
from pipelines.cli.redaction import scrub
from pipelines.recipes.errors import MISTAKES
from pipelines.tracking.advice import SQLITE, trouble_with_database
from pipelines.tracking.client import TrackingUnavailable, open_client
from pipelines.training.prepare import check_stage
from storage.errors import StorageError
from storage.uri import join


def check_mlflow(command: Command) -> Finding:
    """Check that the tracking server or database answers and accepts writes."""
    name, uri = "MLflow", command.place.mlflow_uri
    if uri.startswith(SQLITE):
        path = Path(uri.removeprefix(SQLITE))
        trouble = trouble_with_database(uri)
        if trouble is not None:
            return fail(name, trouble)
        if not path.exists():
            return ok(name, f"{path} will be created by the first run")
    try:
        client = open_client(uri, experiment=command.recipe.name)
    except TrackingUnavailable as error:
        return fail(name, str(error))
    recipe = command.recipe.name
    experiment = client.get_experiment_by_name(recipe)
    if experiment is None:
        return ok(name, f"{uri} answers; experiment {recipe!r} will be created by the first run")
    try:  # writing this tag changes nothing that anybody reads
        client.set_experiment_tag(experiment.experiment_id, "vit.doctor", str(int(time.time())))
    except Exception as error:  # MLflow's own, requests' and SQLAlchemy's
        text = scrub(error)[:200]
        return fail(
            name,
            f"{uri} answers, but refuses a write: {text} - ask for EDIT permission on {recipe}",
        )
    return ok(name, f"{uri} answers and accepts writes")


def check_data(command: Command) -> Finding:
    """Check each stage's dataset: present, complete, with the right classes and enough images."""
    name, lines = "data", []
    for stage in command.stages:
        try:
            # skips `init`, which may be gigabytes and is read when the stage starts
            checked = check_stage(replace(stage, init=None), command.place)
        except (*MISTAKES, StorageError) as error:
            prefix = f"stage {stage.name}: "
            return fail(name, prefix + str(error).removeprefix(prefix))
        shards = checked.dataset.shards(stage.data.train_split)
        most = checked.counts[-1]
        line = f"{checked.dataset.uri}: {len(shards)} shards for {most} workers"
        lines.append(line)
    # Workers read ranges of samples, not whole shards, so any number of shards will do.
    return ok(name, "; ".join(dict.fromkeys(lines)) + " (read by ranges)")


def check_init(command: Command) -> Finding:
    """Check that the checkpoint a stage starts from exists."""
    name, checkpoints = "init", []
    for stage in command.stages:
        if stage.init is None:
            continue
        local = "://" not in stage.init
        exists = Path(stage.init).exists() if local else _lies_at(stage.init)
        if not exists:
            return fail(name, f"stage {stage.name}: init {stage.init} does not exist")
        checkpoints.append(stage.init)
    return ok(name, ", ".join(checkpoints) or "no stage starts from a checkpoint")


def _lies_at(uri: str) -> bool:
    parent, _, last = uri.rstrip("/").rpartition("/")
    return next(iter(impatient_store(join(parent)).list(last)), None) is not None


CHECKS: tuple[Callable[[Command], Finding], ...] = (
    check_ray,
    check_gpu_nodes,
    check_storage,
    check_clock,
    check_mlflow,
    check_data,
    check_init,
)
