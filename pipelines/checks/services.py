"""Checks of the services a run uses: Ray, storage and its clock, MLflow, the data."""

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path

import boto3.session

from cluster.errors import BadPlace
from cluster.scaling import check_room, settle_gpus, worker_cpus
from cluster.settings import Place
from pipelines.checks.finding import Finding, fail, ok, warn
from pipelines.checks.machine import gpus_here
from pipelines.cli.options import Command
from pipelines.cli.ray_address import LOCAL, UNSET, read_address, variables_of_head
from pipelines.cli.ray_folder import ray_folder, ray_folder_of_environment, trouble
from pipelines.cli.redaction import scrub
from pipelines.recipes.errors import MISTAKES
from pipelines.tracking.advice import SQLITE, trouble_with_database
from pipelines.tracking.client import TrackingUnavailable, open_client
from pipelines.training.prepare import check_stage
from storage.errors import ObjectExists, StorageError
from storage.local import LocalStore
from storage.s3 import S3Store
from storage.store import ONE_WRITER, ObjectStore
from storage.uri import join, parse

RAY_SECONDS = 25.0
_WARN_SKEW_SECONDS, _MOST_SKEW_SECONDS = 60.0, 900.0  # S3 refuses requests that are 15 minutes off
# Connects like a training script, with token, in a process that can be abandoned.
_CONNECT = """
import json, sys, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("resources " + json.dumps(ray.cluster_resources()))
"""
_ASK_JOBS = """
import sys
from ray.job_submission import JobSubmissionClient
JobSubmissionClient(sys.argv[1]).list_jobs()
print("resources {}")
"""


def check_ray(command: Command) -> Finding:
    """Check that the cluster of RAY_ADDRESS answers, accepts the token and has room."""
    name, address = "Ray", os.environ.get("RAY_ADDRESS", "").strip()
    jobs = address.startswith(("http://", "https://"))
    variables: dict[str, str] = {}
    try:
        if not jobs:
            address = read_address()
            if address == LOCAL:
                return _own_ray(command)
            variables = variables_of_head(address)
    except BadPlace as error:
        return fail(name, str(error))
    script = _ASK_JOBS if jobs else _CONNECT
    try:
        done = subprocess.run(  # noqa: S603  # our own interpreter and text
            [sys.executable, "-c", script, address],
            capture_output=True,
            text=True,
            timeout=RAY_SECONDS,
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"} | variables,
        )
    except subprocess.TimeoutExpired:
        return fail(
            name, f"{address} accepted no driver within {RAY_SECONDS:g} s - see `ray status`"
        )
    answers = [line for line in done.stdout.splitlines() if line.startswith("resources ")]
    if done.returncode or not answers:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        text = scrub(lines[-1])[:300]
        token = any(word in done.stderr.lower() for word in ("authenticat", "token", "401"))
        do = (
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or ~/.ray/auth_token to the cluster's token"
            if token
            else f"start Ray there, or {UNSET}"
        )
        return fail(name, f"{address} refuses: {text} - {do}")
    if script == _ASK_JOBS:
        return ok(name, f"the job server at {address} answers and accepts the token")
    resources = json.loads(answers[0].removeprefix("resources "))
    return _room(command, resources, f"{address} answers and accepts the token")


def _own_ray(command: Command) -> Finding:
    """Check that a script can start a local Ray."""
    folder = ray_folder_of_environment()
    try:
        used = ray_folder(quiet=True)
    except BadPlace as error:
        return fail("Ray", str(error))
    cpus = float(os.cpu_count() or 1)
    finding = _room(
        command, {"CPU": cpus, "GPU": float("inf")}, "RAY_ADDRESS is not set: local Ray"
    )
    if finding.status == "ok" and used != str(folder):
        return warn("Ray", f"{trouble(folder)}, so its files go to {used}; {finding.text}")
    return finding


def _room(command: Command, resources: dict[str, float], text: str) -> Finding:
    """Check that the minimum of workers and a decoding task fit."""
    name, place = "Ray", command.place
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    shown = f"{text}, {cpus:g} CPUs" + (f", {gpus:g} GPUs" if 0 < gpus < float("inf") else "")
    if place.wait_for_nodes and place.workers.gpus is not None:
        return ok(name, f"{shown} now, more on demand (wait_for_nodes)")
    try:
        place, _ = settle_gpus(place, have_gpus=gpus if gpus < float("inf") else gpus_here())
        if place.wait_for_nodes:
            return ok(name, f"{shown} now, more on demand (wait_for_nodes)")
        check_room(
            fewest=place.workers.min,
            cpus=worker_cpus(place.workers, most=place.workers.max, cluster_cpus=cpus),
            gpus=place.workers.gpus_each,
            decode_cpus=place.decode_cpus,
            have_cpus=cpus,
            have_gpus=gpus,
        )
    except BadPlace as error:
        return fail(name, str(error))
    return ok(name, f"{shown}: room for {place.workers.min} workers and decoding")


def check_storage(command: Command) -> Finding:
    """Check put, get, list, conditional put and delete under the storage root."""
    name, root = "storage", command.place.storage_root
    store = impatient_store(root)
    key = f".doctor-{secrets.token_hex(8)}"
    first, second = secrets.token_bytes(16), secrets.token_bytes(16)
    doing = "a write"
    try:
        store.write(key, first)
        try:
            doing = "a read"
            if store.read(key) != first:
                return fail(name, f"{root} returned other bytes than were written")
            doing = "a listing"
            if isinstance(store, S3Store) and key not in store.list(key):
                return fail(name, f"{root} does not list what was written - grant s3:ListBucket")
            doing = "a conditional write"
            try:
                store.write(key, second, if_absent=True)
                return fail(
                    name,
                    f"{root} ignores If-None-Match: two writers of one manifest would not notice"
                    f" each other - use a server with conditional writes, or"
                    f" {ONE_WRITER}",
                )
            except ObjectExists:
                pass
        finally:
            store.delete(key)
    except StorageError as error:
        return fail(name, f"{root} refuses {doing}: {error}")
    return ok(name, f"{root}: put, get, list, conditional put, delete")


def impatient_store(uri: str) -> ObjectStore:
    """Open the store at a URI, with short timeouts."""
    location = parse(uri)
    if location.bucket is None:
        return LocalStore(location.path)
    return S3Store(
        location.bucket, location.path, request_attempts=2, connect_seconds=2.0, read_seconds=5.0
    )


def check_clock(command: Command) -> Finding:
    """Compare this machine's clock with the S3 server's, because signatures contain the time."""
    name = "clock"
    if not any(_on_s3(command.place)):
        return ok(name, "storage is local: nothing to compare with")
    endpoint = boto3.session.Session().client("s3").meta.endpoint_url
    try:
        with urllib.request.urlopen(endpoint, timeout=5) as reply:  # noqa: S310  # boto3's own URL
            date = reply.headers["Date"]
    except urllib.error.HTTPError as refused:  # every response has the date
        date = refused.headers["Date"]
    except OSError as error:
        return fail(name, f"{endpoint} does not answer ({error}) - see AWS_ENDPOINT_URL")
    if not date:
        return warn(name, f"{endpoint} sends no Date header")
    skew = time.time() - parsedate_to_datetime(date).timestamp()
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the storage's"
    if abs(skew) >= _MOST_SKEW_SECONDS:
        return fail(name, f"{text}: signatures will be refused - set the clock (NTP)")
    if abs(skew) >= _WARN_SKEW_SECONDS:
        return warn(name, f"{text} - set the clock (NTP)")
    return ok(name, text)


def _on_s3(place: Place) -> list[bool]:
    return [parse(root).bucket is not None for root in (place.storage_root, place.data_root)]


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
        client = open_client(uri, experiment=command.options.recipe)
    except TrackingUnavailable as error:
        return fail(name, str(error))
    recipe = command.options.recipe
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
            return fail(name, f"stage {stage.name}: {error}")
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
    check_storage,
    check_clock,
    check_mlflow,
    check_data,
    check_init,
)
