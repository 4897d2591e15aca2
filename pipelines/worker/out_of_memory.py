"""What to say when the first steps of a worker group do not fit into a GPU, and what would.

A step takes the same memory each time: what the first ones of a group lack is a mistake in the
place, and a restart would meet it again. The same holds for the model itself and for evaluations.
No rank asks another, since those that did have the memory are in the middle of a collective: the
one that fails raises BadPlace, and the failure policy (`cluster.elastic`) ends the whole group.
"""

from contextlib import suppress
from dataclasses import replace

import torch

from cluster.batching import BatchPlan
from cluster.errors import BadPlace
from cluster.settings import Place
from pipelines.planning.hardware import NodeKind
from pipelines.planning.memory import GIB, memory_at
from pipelines.recipes.batches import batch_of
from pipelines.recipes.objectives import stage_cost
from pipelines.recipes.stage import Stage
from pipelines.worker.utilisation import device_name

FIRST_STEPS = 2
"""The optimizer's states are made at the end of the first step, so the second one is the peak."""


def explain(
    stage: Stage,
    place: Place,
    plan: BatchPlan,
    *,
    what: str,
    in_batches: bool,
    device: str,
    memory_bytes: int,
) -> str:
    """One line: what did not fit, what the plan expects, and the settings that need less.

    Args:
        stage: what is trained.
        place: as it was set.
        plan: the batch arithmetic of the group.
        what: did not fit.
        in_batches: whether a smaller micro-batch needs less.
        device: what CUDA calls the GPU.
        memory_bytes: all that it has.
    """
    gibibytes = memory_bytes / GIB
    parameters = stage_cost(stage).parameters
    expected = memory_at(
        place.zero.level,
        stage,
        place,
        NodeKind(gpus=1, nodes=plan.workers, memory_gibibytes=gibibytes),
        parameters,
        workers=plan.workers,
    )
    smaller = " or ".join(_smaller(stage, place, plan, in_batches)) or "it a GPU with more memory"
    return (
        f"{what} needs more than the {gibibytes:.1f} GiB of this {device}:"
        f" {plan}, zero.level {place.zero.level}, {parameters / 1e6:.0f} million"
        f" parameters; the plan expects {expected.peak / GIB:.1f} GiB - give {smaller}"
    )


def bad_place(
    stage: Stage,
    place: Place,
    plan: BatchPlan,
    *,
    what: str,
    in_batches: bool,
    device: torch.device,
) -> BadPlace:
    """The mistake of a worker whose GPU's memory ended."""
    total = torch.cuda.get_device_properties(device).total_memory
    name = device_name(device)
    return BadPlace(
        explain(
            stage,
            place,
            plan,
            what=what,
            in_batches=in_batches,
            device=name,
            memory_bytes=total,
        )
    )


def half_of(stage: Stage, place: Place, plan: BatchPlan) -> int | None:
    """The largest valid micro-batch of at most half the plan's; None if no smaller one is valid."""
    if plan.micro == 1:
        return None
    with suppress(BadPlace):  # mixed samples come in pairs
        return batch_of(stage, replace(place, max_micro_batch=plan.micro // 2), plan.workers).micro
    return None


def _smaller(stage: Stage, place: Place, plan: BatchPlan, in_batches: bool) -> list[str]:
    """Settings that need less memory than those of the place, the cheapest first."""
    found: list[str] = []
    half = half_of(stage, place, plan)
    if half is not None and in_batches:
        found.append(f"--place.max-micro-batch {half}")
    if in_batches and not place.recompute_activations:
        found.append("--place.recompute-activations")
    if plan.workers > 1 and place.zero.level < 3:
        found.append(f"--place.zero.level {max(2, place.zero.level + 1)}")
    return found


def held_by_others(device: torch.device) -> int:
    """Bytes of a GPU that neither are free nor torch's in this process."""
    if device.type == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return total - free - torch.cuda.memory_reserved(device)
