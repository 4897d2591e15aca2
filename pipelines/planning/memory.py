"""Memory of a worker at each ZeRO level, and the largest micro-batch that fits.

States and buffers are `cluster.budget`'s, activations `vit.memory`'s; `benchmarks/memory.py`
compares their sum with what processes really grow by. Allocator and CUDA come on top as
`pipelines.planning.hardware` assumes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.batching import BatchPlan, plan_batch
from cluster.budget import States, model_states
from cluster.settings import Place, ZeroLevel
from cluster.zero import accumulates_in_float32
from pipelines.planning.hardware import NodeKind
from pipelines.recipes.stage import Stage
from vit.memory import activation_bytes, loss_bytes, workspace_bytes

if TYPE_CHECKING:
    pass

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One worker at one ZeRO level, in bytes."""

    level: int
    states: int
    """Weights, master weights and optimizer states that stand all the time."""
    gradients: int
    """Gradients that are kept."""
    buffers: int
    """DeepSpeed's bucket and gathered weights."""
    activations: int
    """What the backward pass needs of a micro-batch, and its own gradients."""
    peak: int
    """The most at once, with the allocator's share and what is never ours."""
    fits: bool
    largest_micro_batch: int
    """Most images that fit; 0 where not even one does."""
    host: int
    """In host memory (offloading)."""


def nodes_for(place: Place, kind: NodeKind) -> tuple[int, int]:
    """Workers and nodes: a worker a GPU, on as many nodes as asked for, else as the place needs."""
    if not kind.gpus:
        return place.workers.max, kind.nodes or 1
    if kind.nodes is not None:
        return kind.nodes * kind.gpus, kind.nodes
    workers = place.workers.max if place.workers.gpus else kind.gpus
    return workers, -(-workers // kind.gpus)


def memory_at(
    level: ZeroLevel,
    stage: Stage,
    place: Place,
    kind: NodeKind,
    parameters: int,
    *,
    workers: int,
) -> Memory:
    """One worker's memory at a ZeRO level, with the micro-batch that is the largest to fit."""
    _, nodes = nodes_for(place, kind)
    element, gpu = element_bytes(stage), kind.gpus > 0

    def states_of(accumulation: int) -> States:
        return model_states(
            parameters,
            workers=workers,
            level=level,
            element_bytes=element,
            optimizer_states=optimizer_states(stage),
            adam=stage.optim.name == "adamw",
            offload=place.zero.offload_optimizer and level > 0,
            on_gpu=gpu,
            float32_sums=accumulates_in_float32(stage.precision, accumulation),
        )

    share = max(1, -(-stage.global_batch // workers))  # of a worker
    reserve = kind.reserve_gibibytes * GIB / (1 if gpu else max(1, workers // nodes))

    def activations_of(batch: int) -> int:
        if not stage.steps:  # evaluation alone: a block's numbers, not kept
            return 2 * workspace_bytes(stage.model, batch, element_bytes=element)
        return (
            activation_bytes(
                stage.model,
                batch,
                element_bytes=element,
                checkpointing=place.recompute_activations,
                gpu=gpu,
            )
            + workspace_bytes(stage.model, batch, element_bytes=element)
            + loss_bytes(stage.model.num_classes, batch)
        )

    def peak(batch: int) -> int:
        accumulation = -(-share // batch)
        used = states_of(accumulation).peak(activations_of(batch), accumulates=accumulation > 1)
        return round(used * (1 + kind.fragmentation) + reserve)

    limit = limit_of(kind, workers, nodes)
    largest = _largest(lambda batch: peak(batch) <= limit, share)
    plan = batch_of(stage, place, workers)
    batch, states = plan.micro, states_of(plan.accumulation)
    return Memory(
        level=level,
        states=states.standing,
        gradients=states.gradients,
        buffers=states.bucket + states.gathered + states.arriving,
        activations=activations_of(batch),
        peak=peak(batch),
        fits=peak(batch) <= limit,
        largest_micro_batch=largest,
        host=states.host,
    )


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest n in [0, most] that fits, by bisection: what fits once fits below.

    But for `most`, a worker's whole share: it needs no sum of gradients beside it.
    """
    if fits(most):
        return most
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def batch_of(stage: Stage, place: Place, workers: int) -> BatchPlan:
    """How the workers share the global batch. Raises BadPlace where they cannot."""
    return plan_batch(stage.global_batch, workers=workers, max_micro_batch=place.max_micro_batch)


def element_bytes(stage: Stage) -> int:
    """Bytes of a number in the forward pass."""
    return 2 if stage.precision == "bfloat16" else 4


def optimizer_states(stage: Stage) -> int:
    """Float32 numbers kept for each weight: moments, and the average."""
    optim = stage.optim
    moments = 2 if optim.name == "adamw" else int(optim.momentum > 0)
    return moments + int(optim.ema_decay is not None)


def limit_of(kind: NodeKind, workers: int, nodes: int) -> int:
    """Memory of a worker: a GPU's, or its share of a node's."""
    sharing = 1 if kind.gpus else max(1, workers // nodes)
    return round(kind.memory_gibibytes * GIB / sharing)
