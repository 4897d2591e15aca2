"""Estimate what a stage takes, from its recipe, deployment settings and kind of node. Runs nothing.

Sources of the figures: closed forms in `vit.cost` and `vit.memory` (tests compare them with counts
of torch), ZeRO states in `cluster.budget`, and assumptions in `pipelines.planning.hardware`, which
the command line can override. `benchmarks/memory.py` checks the memory as a whole.
"""

from dataclasses import dataclass, replace
from typing import get_args

from cluster.budget import MASTER_BYTES
from cluster.errors import BadPlace
from cluster.scaling import worker_cpus
from cluster.settings import Place, ZeroLevel
from pipelines.planning.hardware import NodeKind
from pipelines.planning.images import PHOTOGRAPH_BYTES, Images
from pipelines.planning.memory import (
    Memory,
    limit_of,
    memory_at,
    nodes_for,
    optimizer_states,
    with_micro_batch,
)
from pipelines.planning.mfu import Mfu, mfu_of
from pipelines.planning.network import network_of
from pipelines.recipes.batches import batch_of
from pipelines.recipes.objectives import (
    stage_cost,
    stage_trained_parameters,
    stage_training_flops,
)
from pipelines.recipes.stage import Stage

_PART_BYTES = 16 << 20  # part size of a multipart upload (storage.s3)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one stage is expected to take."""

    stage: str
    parameters: int
    image_size: int
    """Side of the images in pixels."""
    training_gigaflops: float
    """GFLOP per image, forward and backward."""
    exaflops: float
    """Exaflop of the whole stage, evaluations included."""
    workers: int
    nodes: int
    batch: str
    """Micro-batch x workers x accumulation."""
    micro_batch: int
    memory: tuple[Memory, ...]
    """Memory per worker at each ZeRO level; bfloat16 has no level 0."""
    level: int
    """ZeRO level from the deployment settings."""
    limit_bytes: int
    """Memory of a GPU, or of a worker on CPUs."""
    epochs: float
    mfu: Mfu
    """Share of the peak, and whether it was measured."""
    images_per_second: float
    step_seconds: float
    save_period: int
    """Steps between two saves; 0 for none."""
    days: float
    gpu_days: float
    network_bytes: int
    """Bytes each worker sends per step."""
    network_seconds: float
    """Seconds per step to send them over the ring's slowest link."""
    network_exposed_seconds: float
    """Of these, seconds that computation does not hide. `step_seconds` and `days` are without."""
    decode_cpus: float
    """CPUs needed to decode `images_per_second`."""
    spare_cpus: float
    """CPUs of the nodes that the workers leave free."""
    read_requests: float
    read_bytes: float
    state_bytes: int
    """Size of one resume state."""
    written_bytes: float
    write_requests: float
    dollars: float
    images: Images


def estimate(stage: Stage, place: Place, kind: NodeKind, images: Images) -> Estimate:
    """Estimate one stage.

    Raises:
        BadPlace: the workers cannot share the global batch.
    """
    cost = stage_cost(stage)
    trains = stage_trained_parameters(stage)
    flops_per_image = stage_training_flops(stage)
    workers, nodes = nodes_for(place, kind)
    place = with_micro_batch(stage, place, kind, cost.parameters, workers=workers)
    memory = tuple(
        memory_at(level, stage, place, kind, cost.parameters, workers=workers)
        for level in get_args(ZeroLevel)
        if level or stage.precision != "bfloat16"
    )
    batch = batch_of(stage, place, workers)
    own = next((line for line in memory if line.level == place.zero.level), memory[0])
    peak = kind.tflops(stage.precision) * 1e12
    mfu = mfu_of(stage, place, kind, cost.parameters)
    speed = peak * mfu.share * (workers if kind.gpus else nodes)  # FLOP/s of all workers
    trained = stage.steps * stage.global_batch
    evaluated = (1 + _evaluations(stage)) * images.val
    # the backward pass takes twice the forward's, where all is trained: vit.cost
    flops = trained * flops_per_image + evaluated * cost.forward_flops
    seconds = flops / speed
    rate = speed / flops_per_image
    network = network_of(
        stage,
        kind,
        batch,
        level=place.zero.level,
        parameters=cost.parameters,
        nodes=nodes,
        step_seconds=stage.global_batch / rate,
    )
    requests, read = _reading(stage, place, images, evaluated, nodes)
    kept = 1 + int(stage.optim.ema_decay is not None)  # weights, average
    best = kept if stage.keep == "best" else 0  # a state has those of the best evaluation too
    state = MASTER_BYTES * round(cost.parameters + trains * (optimizer_states(stage) + best))
    period = place.save_period(stage.steps)
    saves = max(0, stage.steps - 1) // period if period else 0
    files = MASTER_BYTES * cost.parameters * kept
    written = saves * state + files
    dollars = (
        seconds / 3600 * nodes * kind.dollars_per_node_hour
        + requests / 1e6 * kind.dollars_per_million_reads
        + written / _PART_BYTES / 1e6 * kind.dollars_per_million_writes
        + read / 1e9 * kind.dollars_per_gigabyte_read
    )
    return Estimate(
        stage=stage.name,
        parameters=cost.parameters,
        image_size=stage.image_size,
        training_gigaflops=flops_per_image / 1e9,
        exaflops=flops / 1e18,
        workers=workers,
        nodes=nodes,
        batch=f"{batch.micro} x {batch.workers} x {batch.accumulation}",
        micro_batch=batch.micro,
        memory=memory,
        level=own.level,
        limit_bytes=limit_of(kind, workers, nodes),
        epochs=trained / images.train,
        mfu=mfu,
        images_per_second=rate,
        step_seconds=stage.global_batch / rate,
        save_period=period,
        days=seconds / 86400,
        gpu_days=seconds / 86400 * workers,
        network_bytes=network.sent,
        network_seconds=network.seconds,
        network_exposed_seconds=network.exposed_seconds,
        decode_cpus=rate * _decode_seconds(kind, images),
        spare_cpus=_spare_cpus(place, kind, workers, nodes),
        read_requests=requests,
        read_bytes=read,
        state_bytes=state,
        written_bytes=written,
        write_requests=written / _PART_BYTES,
        dollars=dollars,
        images=images,
    )


def _evaluations(stage: Stage) -> int:
    """Return the number of evaluations before the last one."""
    if not stage.eval_every_steps or not stage.steps:
        return 0
    return (stage.steps - 1) // stage.eval_every_steps


def _decode_seconds(kind: NodeKind, images: Images) -> float:
    """Return the CPU time to decode an image, at least a tenth of a millisecond."""
    return max(1e-4, kind.decode_milliseconds / 1e3 * images.mean_bytes / PHOTOGRAPH_BYTES)


def _spare_cpus(place: Place, kind: NodeKind, workers: int, nodes: int) -> float:
    """Return the CPUs of the nodes that the workers leave to decoding (`cluster.placement`)."""
    where = place.decode_on_gpu_nodes
    if kind.gpus and (where is False or (where is None and place.wait_for_nodes)):
        return 0.0  # other nodes are there for it
    have = float(nodes * kind.cpus)
    on_gpus = replace(place.workers, gpus=int(kind.gpus > 0))
    return max(0.0, have - workers * worker_cpus(on_gpus, most=workers, cluster_cpus=have))


def _reading(
    stage: Stage, place: Place, images: Images, evaluated: int, nodes: int
) -> tuple[float, float]:
    """Return read requests and bytes of the whole stage.

    A run of neighbours is one request (`storage.order`), in evaluation as well. With a cache that
    holds all data, each node reads it once.
    """
    samples = stage.steps * stage.global_batch + evaluated
    size = images.mean_bytes + 512  # its tar header
    once = images.train + images.val
    if place.cache.folder is not None and once * size <= place.cache.gibibytes * 2**30:
        samples = min(samples, once * nodes)
    return samples / images.run_samples, samples * size


def check_sharing(stages: tuple[Stage, ...], place: Place, kind: NodeKind) -> None:
    """Check that the workers can share each batch. Raises BadPlace, naming the stage, if not."""
    workers, _ = nodes_for(place, kind)
    for stage in stages:
        try:
            batch_of(stage, place, workers)
        except BadPlace as error:
            raise BadPlace(f"stage {stage.name}: {error}") from None
