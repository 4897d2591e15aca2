"""Memory per worker at each ZeRO level, and the largest micro-batch that fits.

`cluster.budget` gives states and buffers, `vit.memory` activations; `benchmarks/memory.py` compares
their sum with measured processes. Overhead of allocator and CUDA is added as assumed in
`pipelines.planning.hardware`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cluster.batching import BatchPlan
from cluster.budget import States, model_states
from cluster.settings import Place, ZeroLevel
from cluster.zero import accumulates_in_float32
from pipelines.planning.hardware import NodeKind
from pipelines.recipes.batches import batch_of
from pipelines.recipes.objectives import stage_matrices, stage_trained_parameters
from pipelines.recipes.stage import Stage
from vit import ViTConfig
from vit.memory import activation_bytes, forward_bytes, loss_bytes, workspace_bytes
from vit.objectives.memory import asking_bytes, pretext_bytes
from vit.trained import HEAD

GIB = 2**30
MOST_EVALUATED = 4
"""Micro-batches of training that an evaluation computes at once, at most."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of one worker at one ZeRO level, in bytes."""

    level: int
    states: int
    """Weights, master weights and optimizer states, which are always in memory."""
    gradients: int
    """Gradients that are kept."""
    buffers: int
    """DeepSpeed's bucket, and gathered weights."""
    activations: int
    """Activations of a micro-batch for the backward pass, and their gradients."""
    peak: int
    """Highest total, including allocator overhead and reserved memory."""
    fits: bool
    largest_micro_batch: int
    """Most images that fit; 0 if not even one does."""
    host: int
    """Bytes in host memory (offloading)."""


def nodes_for(place: Place, kind: NodeKind) -> tuple[int, int]:
    """Return workers and nodes: one worker per GPU, on the given or the needed number of nodes."""
    if not kind.gpus:
        return place.workers.most, kind.nodes or 1
    if kind.nodes is not None:
        return kind.nodes * kind.gpus, kind.nodes
    workers = (place.workers.max if place.workers.gpus else None) or kind.gpus
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
    """Estimate one worker's memory at a ZeRO level, and the largest micro-batch that fits.

    Of the `parameters` only those count twice that the stage trains. Activations are those of
    training everything, except where the head alone is trained: there none is kept.
    """
    trained = stage_trained_parameters(stage)
    _, nodes = nodes_for(place, kind)
    element, gpu = element_bytes(stage), kind.gpus > 0

    def states_of(accumulation: int) -> States:
        return model_states(
            trained,
            frozen=parameters - trained,
            workers=workers,
            level=level,
            element_bytes=element,
            optimizer_states=optimizer_states(stage),
            adam=stage.optim.name == "adamw",
            changes=stage.optim.name in ("lamb", "muon"),
            offload=place.zero.offload_optimizer and level > 0,
            on_gpu=gpu,
            float32_sums=accumulates_in_float32(stage.precision, accumulation),
        )

    share = max(1, -(-stage.global_batch // workers))  # images per worker and step
    reserve = kind.reserve_gibibytes * GIB / (1 if gpu else max(1, workers // nodes))

    def held_by(batch: int) -> int:
        cut = BatchPlan(micro=batch, workers=workers, accumulation=-(-share // batch))
        at_once = evaluated_at_once(stage, place, cut, parameters)
        evaluating = evaluation_bytes(stage, at_once, parameters)
        return max(evaluating, activations_of(stage, place, batch) if stage.steps else 0)

    def peak(batch: int) -> int:
        accumulation = -(-share // batch)
        used = states_of(accumulation).peak(held_by(batch), accumulates=accumulation > 1)
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
        activations=held_by(batch),
        peak=peak(batch),
        fits=peak(batch) <= limit,
        largest_micro_batch=largest,
        host=states.host,
    )


def activations_of(stage: Stage, place: Place, batch: int) -> int:
    """Bytes that forward and backward pass of a micro-batch hold, without the weights."""
    element, recompute = element_bytes(stage), place.recompute_activations
    loss = loss_bytes(stage.model.num_classes, batch)
    if stage.train == HEAD:
        return forward_bytes(stage.model, batch, element_bytes=element) + loss
    if stage.objective != "classify":
        assert isinstance(stage.model, ViTConfig)
        return pretext_bytes(
            stage.objective,
            stage.model,
            stage.masked,
            batch,
            element_bytes=element,
            checkpointing=recompute,
        )
    kept = activation_bytes(stage.model, batch, element_bytes=element, checkpointing=recompute)
    return kept + workspace_bytes(stage.model, batch, element_bytes=element) + loss


def evaluation_bytes(stage: Stage, batch: int, parameters: int) -> int:
    """Bytes that evaluating so many images at once holds, with the model of the average, if any."""
    element, model = element_bytes(stage), stage.model
    average = parameters * element if stage.optim.ema_decay is not None else 0
    if stage.objective != "classify":
        assert isinstance(model, ViTConfig)
        hides = (stage.objective, model, stage.masked, batch)
        return average + asking_bytes(*hides, element_bytes=element)
    passing = forward_bytes(model, batch, element_bytes=element)
    return average + passing + loss_bytes(model.num_classes, batch)


def evaluated_at_once(stage: Stage, place: Place, plan: BatchPlan, parameters: int) -> int:
    """Images that an evaluation computes at once: as much memory as the activations of training.

    Up to four micro-batches, where a step has so many: other numbers would leave a rest, for which
    compiled blocks would be compiled once more. Less than one where even that holds more.
    """
    micro = plan.micro
    if not stage.steps:
        return micro  # `memory_at` is about evaluation then
    held = activations_of(stage, place, micro)
    most = min(MOST_EVALUATED, plan.accumulation)
    for times in range(most, 1, -1):
        fits = evaluation_bytes(stage, times * micro, parameters) <= held
        if fits and plan.accumulation % times == 0:
            return times * micro
    while micro > 1 and evaluation_bytes(stage, micro, parameters) > held:
        micro //= 2
    return micro


def with_micro_batch(
    stage: Stage, place: Place, kind: NodeKind, parameters: int, *, workers: int
) -> Place:
    """The place with a number for `max_micro_batch`; on GPUs the largest that fits, for null."""
    if place.max_micro_batch is not None or not kind.gpus:
        return place
    memory = memory_at(place.zero.level, stage, place, kind, parameters, workers=workers)
    least = 2 if stage.augment.mixes else 1
    return replace(place, max_micro_batch=max(least, memory.largest_micro_batch))


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest n in [0, most] that fits, by bisection: if n fits, smaller ones fit.

    `most`, a worker's whole share, is tried first: it alone needs no accumulated gradients.
    """
    if fits(most):
        return most
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def element_bytes(stage: Stage) -> int:
    """Return the bytes per number in the forward pass."""
    return 2 if stage.precision == "bfloat16" else 4


def optimizer_states(stage: Stage) -> float:
    """Return the float32 numbers kept per weight: moments, and the Polyak average if any.

    Muon keeps one moment of the matrices of the blocks, and two of all else.
    """
    optim = stage.optim
    moments = float(optim.momentum > 0) if optim.name == "sgd" else 2.0
    moments -= sum(stage_matrices(stage)) / stage_trained_parameters(stage)
    return moments + int(optim.ema_decay is not None)


def limit_of(kind: NodeKind, workers: int, nodes: int) -> int:
    """Return the memory of a worker: that of a GPU, or its share of the node's."""
    sharing = 1 if kind.gpus else max(1, workers // nodes)
    return round(kind.memory_gibibytes * GIB / sharing)
