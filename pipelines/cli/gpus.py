"""Decide `workers.gpus: null` once Ray is connected, when the cluster's GPUs are known."""

from dataclasses import replace
from typing import TypeVar

import ray

from cluster.scaling import settle_workers
from pipelines.cli.options import Command

Own = TypeVar("Own")


def with_gpus_settled(command: Command[Own]) -> Command[Own]:
    """Return the command with `workers.gpus` decided from the connected cluster.

    Prints a note if GPUs stay idle.
    """
    have = ray.cluster_resources().get("GPU", 0.0)
    place, note = settle_workers(command.place, have_gpus=have)
    if note:
        print(f"note: {note}", flush=True)
    return replace(command, place=place)
