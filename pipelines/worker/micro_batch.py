"""`place.max_micro_batch: null`: the plan's number for this GPU, less if the first steps need more.

The number lies beside the attempt, so that every group of workers after this one takes the same. A
worker that runs out of memory in the first steps halves it and fails; the driver then starts the
group again. Evaluations have a number of their own, so that they never change the training's.
"""

import json
from dataclasses import asdict, dataclass, replace

import torch

from cluster.batching import BatchPlan
from cluster.settings import Place
from pipelines.planning.hardware import NodeKind
from pipelines.planning.memory import GIB, evaluated_at_once, with_micro_batch
from pipelines.recipes.batches import batch_of
from pipelines.recipes.objectives import stage_cost
from pipelines.recipes.stage import Stage
from pipelines.worker.collectives import of_first_rank
from pipelines.worker.out_of_memory import half_of
from storage.errors import ObjectNotFound
from storage.objects import open_store

FILE = "micro_batch.json"


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Content of the file."""

    most: int
    """Most images in one forward pass."""
    too_large: tuple[int, ...] = ()
    """Micro-batches that ran out of memory."""
    evaluated: int | None = None
    """Most images that an evaluation computes at once, where those of the plan did not fit."""


def read_micro_batch(attempt_uri: str) -> MicroBatch | None:
    """What was found before, if anything was."""
    try:
        found = json.loads(open_store(attempt_uri).read(FILE))
    except ObjectNotFound:
        return None
    return MicroBatch(**found | {"too_large": tuple(found["too_large"])})


def _write(attempt_uri: str, found: MicroBatch) -> None:
    open_store(attempt_uri).write(FILE, json.dumps(asdict(found)).encode())


def with_number(
    stage: Stage, place: Place, attempt_uri: str, *, rank: int, workers: int, device: torch.device
) -> Place:
    """The place with a number for `max_micro_batch`, the same on every rank (collective)."""
    if place.max_micro_batch is not None or device.type == "cpu":
        return place
    most = 0
    if rank == 0:
        total = torch.cuda.get_device_properties(device).total_memory
        most = _most(stage, place, attempt_uri, workers=workers, memory_bytes=total)
    return replace(place, max_micro_batch=of_first_rank(most, device))


def _most(stage: Stage, place: Place, attempt_uri: str, *, workers: int, memory_bytes: int) -> int:
    """The number that was found before, else the plan's, which is kept."""
    before = read_micro_batch(attempt_uri)
    if before is not None:
        return before.most
    kind = NodeKind(gpus=1, nodes=workers, memory_gibibytes=memory_bytes / GIB)
    parameters = stage_cost(stage).parameters
    settled = with_micro_batch(stage, place, kind, parameters, workers=workers)
    most = batch_of(stage, settled, workers).micro
    _write(attempt_uri, MicroBatch(most=most))
    return most


def evaluated_number(
    stage: Stage,
    place: Place,
    plan: BatchPlan,
    attempt_uri: str,
    *,
    rank: int,
    device: torch.device,
) -> int:
    """Images that an evaluation computes at once, the same on every rank (collective on GPUs)."""
    planned = evaluated_at_once(stage, place, plan, stage_cost(stage).parameters)
    if device.type == "cpu":
        return planned
    before = read_micro_batch(attempt_uri) if rank == 0 else None
    known = before.evaluated if before is not None else None
    return of_first_rank(min(planned, known or planned), device)


def halve(stage: Stage, place: Place, attempt_uri: str, plan: BatchPlan) -> None:
    """Keep half of a micro-batch that ran out of memory, where there is a half."""
    half = half_of(stage, place, plan)
    if half is None:
        return
    before = read_micro_batch(attempt_uri) or MicroBatch(most=plan.micro)
    if half < before.most:  # not where another rank has halved it
        _write(attempt_uri, replace(before, most=half, too_large=(*before.too_large, plan.micro)))


def halve_evaluated(attempt_uri: str, plan: BatchPlan, at_once: int) -> None:
    """Keep half of the images that an evaluation computed at once when it ran out of memory."""
    before = read_micro_batch(attempt_uri) or MicroBatch(most=plan.micro)
    if before.evaluated is None or at_once // 2 < before.evaluated:
        _write(attempt_uri, replace(before, evaluated=at_once // 2))
