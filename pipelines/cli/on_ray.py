"""Work on Ray for a command; `workers.gpus: null` is decided once the cluster's GPUs are known."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import ray

from cluster.scaling import settle_workers
from pipelines.cli.exits import stop_at_sigterm
from pipelines.cli.options import Command
from pipelines.cli.ray_session import ray_session

Own = TypeVar("Own")


@contextmanager
def on_ray(command: Command[Own]) -> Iterator[Command[Own]]:
    """Connect to Ray for as long as the block lasts, and yield the command as it runs there.

    Its `workers.gpus` is decided from the cluster. Prints a note if GPUs stay idle.
    """
    with ray_session(verbose=command.place.verbose):
        stop_at_sigterm()  # again: Ray's own handler aborts with a stack trace
        have = ray.cluster_resources().get("GPU", 0.0)
        place, note = settle_workers(command.place, have_gpus=have)
        if note:
            print(f"note: {note}", flush=True)
        yield replace(command, place=place)
