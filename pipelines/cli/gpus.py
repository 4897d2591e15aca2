"""Settles `workers.gpus: null` after Ray is connected: only the cluster knows its GPUs."""

from dataclasses import replace
from typing import TypeVar

import ray

from cluster.scaling import settle_gpus
from pipelines.cli.options import Command

Own = TypeVar("Own")


def with_gpus_settled(command: Command[Own]) -> Command[Own]:
    """The command with `workers.gpus` as the connected cluster has them.

    Prints a note if GPUs stay idle.
    """
    have = ray.cluster_resources().get("GPU", 0.0)
    place, note = settle_gpus(command.place, have_gpus=have)
    if note:
        print(f"note: {note}", flush=True)
    return replace(command, place=place)
