"""What an entry script of a stage calls: parse, check, train, say what happened."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig
from ray.util.queue import Queue

from cluster.elastic import ElasticTrainer, scaling_config
from cluster.placement import decoding_selector
from cluster.scaling import check_room, worker_cpus
from cluster.settings import Place
from pipelines.cli.console import clock
from pipelines.cli.exits import unwrapped
from pipelines.cli.options import Command
from pipelines.cli.progress import Progress
from pipelines.cli.ray_errors import is_mistake
from pipelines.inspection.inspection import inspect_after_stage
from pipelines.lineage.manifest import Manifest, read_manifest
from pipelines.lineage.resume_states import drop_leftovers, newest_state
from pipelines.recipes.fingerprint import flatten
from pipelines.recipes.streams import train_spec, val_spec
from pipelines.tracking.attempt_run import DatasetRecord, open_tracker
from pipelines.tracking.client import node_sampler
from pipelines.tracking.history import MetricPoint
from pipelines.tracking.tensorboard import EventFiles
from pipelines.tracking.tracker import Tracker
from pipelines.training.fit import fit, with_smaller_micro_batches
from pipelines.training.gauges import Gauges
from pipelines.training.listener import Listener
from pipelines.training.outcomes import Outcome, accuracy_of
from pipelines.training.prepare import Plan
from pipelines.training.relay import Relay
from pipelines.training.restarts import Restarts
from pipelines.worker.feed import TRAIN, VAL, OrderedDataConfig, placeholder
from pipelines.worker.job import Job
from pipelines.worker.loop import train
from pipelines.worker.messages import Message
from storage import weights
from storage.errors import StorageError
from storage.objects import open_store


def run_stage(
    plan: Plan, command: Command, client: Any, *, stop: threading.Event | None = None
) -> Outcome:
    """Train one attempt under an MLflow run; the run ends as what happened.

    Args:
        plan: what to train.
        command: where, and how it is called.
        client: of the tracker.
        stop: ends a stage that runs on a thread of its own, as Ctrl-C does on the main thread.
    """
    place, stage = command.place, plan.stage
    fewest, most, cpus = _fit_to_cluster(plan, place)
    lineage = plan.lineage()
    tracker = open_tracker(
        client,
        experiment=plan.recipe,
        run=plan.run,
        stage=stage.name,
        attempt=plan.attempt.uri,
        tags=_tags(plan, lineage),
        params=flatten(asdict(stage)),
        dataset=_record(plan),
        copy=_event_files(plan, place),
    )
    tracker.log_file("config.yaml", command.as_yaml().encode())
    tracker.watch(node_sampler(client, tracker.run_id), "system/")
    progress = Progress(stage.name, steps=stage.steps, global_batch=stage.global_batch)
    progress.note(f"{origin(plan)}; {_width(fewest, most, cpus)}; to {plan.attempt.uri}")
    progress.note(amount(plan))
    if plan.steps_per_epoch < 1 and stage.steps:
        progress.note(
            f"note: a batch of {stage.global_batch} is more than there are images to train on: each"
            f" step sees them {1 / plan.steps_per_epoch:.1f} times"
        )
    listener = Listener(tracker, progress, plan)
    gauges = Gauges(plan.run, stage.name, place, workers=most, worker_cpus=cpus, note=progress.note)

    def handle(message: Message) -> None:
        gauges.export(message)
        listener.handle(message)

    job = Job(
        stage=stage,
        dataset_uri=plan.dataset.uri,
        attempt_uri=plan.attempt.uri,
        place=place,
        start_uri=plan.start_uri,
        steps_per_epoch=plan.steps_per_epoch,
        manifest=replace(lineage, mlflow_run_id=tracker.run_id),
    )
    trainer = partial(_trainer, job, plan, fewest=fewest, most=most, cpus=cpus)
    began = time.monotonic()
    with tracker.running(progress.note):
        try:
            untracked = with_smaller_micro_batches(
                lambda: fit(trainer, plan, handle, stop, progress.note),
                plan.attempt.uri,
                progress.note,
            )
            if listener.stopped:
                raise listener.stopped
            left = drop_leftovers(plan.attempt.uri)  # not before: a group that is lost needs them
            if left:
                progress.note(left)
            inspect_after_stage(
                plan.attempt.uri, plan.dataset.uri, log_file=tracker.log_file, note=progress.note
            )
        finally:
            progress.end()
        untracked = untracked or _log_manifest(tracker, plan)
    if untracked is not None:
        progress.note(f"warning: not everything reached MLflow: {unwrapped(untracked)}")
    manifest = read_manifest(plan.attempt.uri)
    assert manifest is not None, f"{plan.attempt.uri} ended without a manifest"
    seconds = time.monotonic() - began
    reached = f"val accuracy {accuracy_of(manifest.metrics)} in {clock(seconds)}"
    progress.note(f"{reached}, weights in {plan.attempt.uri}")
    return Outcome(stage.name, "trained", manifest.metrics, seconds, plan.attempt.uri)


def _log_manifest(tracker: Tracker, plan: Plan) -> Exception | None:
    """Log manifest and model; the weights are safe, so what goes wrong here is returned."""
    try:
        data = open_store(plan.attempt.uri).read(weights.MANIFEST)
        tracker.log_file(weights.MANIFEST, data)
        tracker.log_model(json.loads(data)["step"])
    except StorageError as error:
        return error
    return None


def _trainer(
    job: Job, plan: Plan, queue: Queue, scratch: str, *, fewest: int, most: int, cpus: float
) -> ElasticTrainer:
    names = (TRAIN, VAL) if plan.stage.steps else (VAL,)
    return ElasticTrainer(
        counts=plan.counts,
        ends=is_mistake,
        train_loop_per_worker=partial(train, job),
        scaling_config=scaling_config(
            fewest=fewest, most=most, cpus=cpus, gpus=job.place.workers.gpus_each
        ),
        run_config=RunConfig(
            # A name of its own: Ray Train would restore a run of the same name by itself.
            name=f"{plan.run}-{plan.stage.name}-{uuid.uuid4().hex[:8]}",
            storage_path=scratch,  # Ray's own notes; weights and states are ours, elsewhere
            failure_config=FailureConfig(max_failures=job.place.max_failures),
            callbacks=[Relay(queue), Restarts()],
        ),
        datasets=dict.fromkeys(names, placeholder),
        dataset_config=OrderedDataConfig(
            train_spec(job.stage, job.dataset_uri),
            val_spec(job.stage, job.dataset_uri),
            job.place,
            steps=job.stage.steps,
            attempt_uri=job.attempt_uri,
        ),
    )


def _fit_to_cluster(plan: Plan, place: Place) -> tuple[int, int, float]:
    """Workers (fewest, most) and CPUs of each, checked against the cluster."""
    resources = ray.cluster_resources()
    fewest, most = plan.counts[0], plan.counts[-1]
    cpus = worker_cpus(place.workers, most=most, cluster_cpus=resources.get("CPU", 0.0))
    on_gpu, to_come = place.decode_on_gpu_nodes, place.wait_for_nodes
    decoding_selector(ray.nodes(), on_gpu_nodes=on_gpu, more_to_come=to_come)  # refused here
    if not place.wait_for_nodes:
        check_room(
            fewest=fewest,
            cpus=cpus,
            gpus=place.workers.gpus_each,
            decode_cpus=place.decode_cpus,
            have_cpus=resources.get("CPU", 0.0),
            have_gpus=resources.get("GPU", 0.0),
        )
    return fewest, most, cpus


def _event_files(plan: Plan, place: Place) -> Callable[[Sequence[MetricPoint]], None] | None:
    if place.tensorboard is None:
        return None
    return EventFiles(Path(place.tensorboard, plan.run, plan.stage.name, plan.attempt.name)).add


def _record(plan: Plan) -> DatasetRecord:
    dataset, data = plan.dataset, plan.stage.data
    samples = {split: dataset.samples(split) for split in {data.train_split, data.val_split}}
    return DatasetRecord(
        name=data.dataset,
        digest=dataset.digest,
        uri=dataset.uri,
        profile={"classes": len(dataset.classes), "samples": samples},
    )


def _tags(plan: Plan, lineage: Manifest) -> dict[str, str]:
    tags = {
        "fingerprint": plan.fingerprint,
        "weights": plan.attempt.uri,
        "dataset": plan.dataset.uri,
        "dataset_digest": plan.dataset.digest,
        "ray_job_id": ray.get_runtime_context().get_job_id(),
    }
    if plan.parent:
        tags["parent.weights"] = plan.parent.uri
    return tags | lineage.tags()


def origin(plan: Plan) -> str:
    """What the stage starts from, in words: a resume state goes before everything else."""
    saved = newest_state(plan.attempt.uri)
    if saved is not None:
        return f"continues after step {saved.step}"
    if plan.parent:
        return f"from {plan.stage.parent} {plan.parent.name}"
    return f"from {plan.stage.init}" if plan.stage.init else "from scratch"


def amount(plan: Plan) -> str:
    """What is trained on, and for how long, in words."""
    stage, classes = plan.stage, plan.stage.model.num_classes
    images = f"{plan.val_images:,} images to validate on"
    if not stage.steps:
        return f"{images}; no steps"
    epochs = stage.steps / plan.steps_per_epoch
    known = f" of {classes:,} classes" if stage.objective == "classify" else ""
    return (
        f"{plan.train_images:,} images{known} to train on, {images}; {stage.steps:,} steps of"
        f" {stage.global_batch:,} images, {epochs:.3g} epochs; learning rate"
        f" {stage.optim.peak_lr:g} after {stage.optim.warmup_steps:,} steps"
    )


def _width(fewest: int, most: int, cpus: float) -> str:
    workers = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{workers} workers of {cpus:g} CPU"
