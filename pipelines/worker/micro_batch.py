"""`place.max_micro_batch: null`: the plan's number for this GPU, less if the first steps need more.

The number lies beside the attempt, so that every group of workers after this one takes the same. A
worker that runs out of memory in the first steps or in an evaluation halves it and fails; the
driver then starts the group again.
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import torch

from cluster.batching import BatchPlan
from cluster.settings import Place
from pipelines.planning.hardware import NodeKind
from pipelines.planning.memory import GIB, with_micro_batch
from pipelines.recipes.batches import batch_of
from pipelines.recipes.objectives import stage_cost
from pipelines.recipes.stage import Stage
from pipelines.worker.collectives import of_first_rank
from pipelines.worker.out_of_memory import bad_place, half_of
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


def read_micro_batch(attempt_uri: str) -> MicroBatch | None:
    """What was found before, if anything was."""
    try:
        found = json.loads(open_store(attempt_uri).read(FILE))
    except ObjectNotFound:
        return None
    return MicroBatch(most=int(found["most"]), too_large=tuple(found["too_large"]))


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


@contextmanager
def within_memory(
    stage: Stage,
    place: Place,
    plan: BatchPlan,
    *,
    what: str,
    step: int,
    attempt_uri: str,
    finds: bool,
    device: torch.device,
    first: bool = True,
    in_batches: bool = True,
) -> Generator[None]:
    """Say what does not fit into the GPU's memory where it is tried for the first time.

    Later it lacks memory that somebody else took. That is no mistake, and a restart may help.

    Args:
        stage: what is trained.
        place: with a number for `max_micro_batch`.
        plan: the batch arithmetic of the group.
        what: needs the memory.
        step: steps done before.
        attempt_uri: of the stage attempt.
        finds: the number was left open: the next group of workers takes half.
        device: of this worker.
        first: whether it is tried for the first time.
        in_batches: whether a smaller micro-batch needs less.

    Raises:
        cluster.errors.BadPlace: it does not fit.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        if not first:
            raise
        if in_batches and finds:
            halve(stage, place, attempt_uri, plan)
        raise bad_place(
            stage, place, plan, what=what, step=step, in_batches=in_batches, device=device
        ) from None


def halve(stage: Stage, place: Place, attempt_uri: str, plan: BatchPlan) -> None:
    """Keep half of a micro-batch that ran out of memory, where there is a half."""
    half = half_of(stage, place, plan)
    if half is None:
        return
    before = read_micro_batch(attempt_uri) or MicroBatch(most=plan.micro)
    if half < before.most:  # not where another rank has halved it
        _write(attempt_uri, MicroBatch(most=half, too_large=(*before.too_large, plan.micro)))
