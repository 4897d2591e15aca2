"""Many stages of one recipe: what is committed is skipped, the rest runs side by side.

A stage starts when its parent is committed and the cluster has room for its workers beside those
that train. Each is a stage like any other: named by its content, continued after a kill, tracked.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Any

import ray

from cluster.errors import BadPlace
from cluster.scaling import worker_cpus
from cluster.settings import Place
from pipelines.cli.on_ray import on_ray
from pipelines.cli.options import Command
from pipelines.cli.place import check_root
from pipelines.recipes.stage import Stage
from pipelines.tracking.tracker import CLOSE_SECONDS
from pipelines.training.driver import run_stage
from pipelines.training.outcomes import Outcome
from pipelines.training.prepare import Checked, check_stage, make_plan
from pipelines.training.stages import committed_already
from pipelines.worker.background import Background

STOP_SECONDS = 5.0  # for stages to notice that they shall stop


def run_concurrently(
    command: Command, client: Any, *, parallel: int | None = None
) -> dict[str, Outcome]:
    """Run the command's stages; return what became of each, by name.

    Args:
        command: stages in an order in which parents come before children.
        client: of the tracker. The run that holds the stages must exist, or several would make it.
        parallel: stages at once; on CPUs they share what one would have. Default: as many as the
            cluster has room for.

    Raises:
        ValueError: one line; before anything is started.
        Failed: a stage failed. Those that ran beside it end first; the same command goes on.
    """
    checked = {stage.name: check_stage(stage, command.place) for stage in command.stages}
    check_root(command.place)
    outcomes: dict[str, Outcome] = {}
    rest = _without_committed(list(command.stages), command, client, checked, outcomes)
    if not rest:
        return outcomes
    with on_ray(command) as command:
        place, at_once = room(command.place, ray.cluster_resources(), parallel)
        command = replace(command, place=place)
        if at_once > 1:
            os.environ["TTY_COMPATIBLE"] = "0"  # a live line each would overwrite the others'
        print(f"{len(rest)} stages to run, {min(at_once, len(rest))} at once", flush=True)
        _run(rest, command, client, checked, outcomes, at_once)
    return outcomes


def room(
    place: Place, resources: Mapping[str, float], parallel: int | None = None
) -> tuple[Place, int]:
    """How many stages the cluster holds side by side, and the place with its CPUs shared so.

    Raises:
        BadPlace: `parallel` is less than 1, or more than fit.
    """
    if parallel is not None and parallel < 1:
        raise BadPlace(f"--parallel {parallel}: wanted at least 1")
    workers, have = place.workers, resources.get("CPU", 0.0)
    if parallel and not workers.gpus and workers.cpus is None:
        share = worker_cpus(workers, most=workers.most * parallel, cluster_cpus=have)
        workers = replace(workers, cpus=share)
        place = replace(place, workers=workers)
    each = worker_cpus(workers, most=workers.most, cluster_cpus=have)
    fits = int((have + 1e-6) / (workers.most * each + place.decode_cpus))
    if workers.gpus:
        fits = min(fits, int(resources.get("GPU", 0.0) / (workers.most * workers.gpus)))
    if parallel is None or place.wait_for_nodes:
        return place, parallel or max(1, fits)
    if parallel > max(1, fits):
        raise BadPlace(
            f"--parallel {parallel}: {max(1, fits)} stages of {workers.most} workers x {each:g}"
            f" CPUs and {workers.gpus} GPUs (+ {place.decode_cpus:g} CPUs for decoding) fit into"
            f" {have:g} CPUs and {resources.get('GPU', 0.0):g} GPUs"
        )
    return place, parallel


def ready(rest: Sequence[Stage], unfinished: set[str]) -> list[Stage]:
    """Stages of `rest` whose parent is none of the `unfinished`."""
    return [stage for stage in rest if stage.parent not in unfinished]


def _without_committed(
    rest: list[Stage],
    command: Command,
    client: Any,
    checked: dict[str, Checked],
    outcomes: dict[str, Outcome],
) -> list[Stage]:
    """The stages that are left to train; what is committed goes into `outcomes`."""
    left: list[Stage] = []
    for stage in rest:
        if stage.parent in {other.name for other in left}:
            left.append(stage)  # its fingerprint needs its parent's weights
            continue
        plan = make_plan(stage, command, checked[stage.name])
        if plan.done:
            outcomes[stage.name] = committed_already(plan, client)
        else:
            left.append(stage)
    return left


def _run(
    rest: list[Stage],
    command: Command,
    client: Any,
    checked: dict[str, Checked],
    outcomes: dict[str, Outcome],
    at_once: int,
) -> None:
    running: dict[Future[Outcome], Stage] = {}
    stop = threading.Event()

    def start(stage: Stage) -> Callable[[], Outcome]:
        only = replace(command, stages=(stage,))
        plan = make_plan(stage, only, checked[stage.name])
        if plan.done:
            return lambda: committed_already(plan, client)
        return lambda: run_stage(plan, only, client, stop=stop)

    try:
        while rest or running:
            unfinished = {stage.name for stage in (*rest, *running.values())}
            for stage in ready(rest, unfinished)[: at_once - len(running)]:
                rest.remove(stage)
                running[Background(start(stage)).future] = stage
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes[running.pop(future).name] = future.result()
    except KeyboardInterrupt:  # their runs in MLflow end as KILLED, before Ray goes
        stop.set()
        wait(running, timeout=CLOSE_SECONDS + STOP_SECONDS)
        raise
    except Exception:
        wait(running)  # what trains beside the stage that failed is not thrown away
        raise
