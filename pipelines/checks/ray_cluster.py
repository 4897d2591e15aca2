"""Check Ray: the cluster of RAY_ADDRESS, or the one that a script starts."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from cluster.errors import BadPlace
from cluster.scaling import check_room, settle_workers, worker_cpus
from pipelines.checks.finding import Finding, fail, ok, warn
from pipelines.checks.machine import gpus_here
from pipelines.cli.options import Command
from pipelines.cli.ray_address import LOCAL, UNSET, read_address, variables_of_head
from pipelines.cli.ray_folder import ray_folder, ray_folder_of_environment, trouble
from pipelines.cli.redaction import scrub

RAY_SECONDS = 25.0
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
        done = run_driver("-c", script, address, variables=variables, seconds=RAY_SECONDS)
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


def run_driver(
    *arguments: str, variables: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run Python as a driver of Ray in a process of its own, which can be abandoned.

    Args:
        arguments: of the interpreter.
        variables: of the environment, beside this process's.
        seconds: how long to wait.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    return subprocess.run(  # noqa: S603  # our own interpreter and scripts
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **variables},
    )


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
    try:
        place, _ = settle_workers(place, have_gpus=gpus if gpus < float("inf") else gpus_here())
        if place.wait_for_nodes:
            return ok(name, f"{shown} now, more on demand (wait_for_nodes)")
        check_room(
            fewest=place.workers.fewest,
            cpus=worker_cpus(place.workers, most=place.workers.most, cluster_cpus=cpus),
            gpus=place.workers.gpus_each,
            decode_cpus=place.decode_cpus,
            have_cpus=cpus,
            have_gpus=gpus,
        )
    except BadPlace as error:
        return fail(name, str(error))
    return ok(name, f"{shown}: room for {place.workers.fewest} workers and decoding")
