"""What a step sends between workers, and how much of that time nothing is computed.

On GPUs gradients are sent while the backward pass goes on (`overlap_comm` in `cluster.zero`), and
level 3 fetches weights ahead of the blocks that need them. What is never hidden: the weights that
levels 1 and 2 gather after the optimizer's step, and the sums of Muon. A CPU hides nothing. Read
from DeepSpeed 0.19.8; not measured, as more than one GPU was never there.
"""

from dataclasses import dataclass

from cluster.batching import BatchPlan
from cluster.budget import MASTER_BYTES, network_bytes
from cluster.settings import ZeroLevel
from cluster.zero import accumulates_in_float32
from pipelines.planning.hardware import NodeKind
from pipelines.planning.memory import element_bytes
from pipelines.recipes.objectives import stage_matrices, stage_trained_parameters
from pipelines.recipes.stage import Stage

_BACKWARD = 2 / 3
"""Share of a step's arithmetic: the backward pass takes twice the forward pass's."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """One worker's traffic in one step."""

    sent: int
    """Bytes that it sends, and as many that it receives."""
    seconds: float
    """Time that takes over the ring's slowest link."""
    exposed_seconds: float
    """Of these, the seconds that no computation hides."""


def network_of(
    stage: Stage,
    kind: NodeKind,
    batch: BatchPlan,
    *,
    level: ZeroLevel,
    parameters: int,
    nodes: int,
    step_seconds: float,
) -> Network:
    """Return the traffic of a step that computes for so many seconds."""
    trained, workers = stage_trained_parameters(stage), batch.workers
    element = element_bytes(stage)
    sums = _added_up(stage, level, workers)
    float32_sums = accumulates_in_float32(stage.precision, batch.accumulation)
    sent = network_bytes(
        trained,
        frozen=parameters - trained,
        workers=workers,
        level=level,
        element_bytes=element,
        accumulation=batch.accumulation,
        float32_sums=float32_sums,
        added_up=sums,
    )
    stepped = element * trained if level in (1, 2) else 0
    late = round((workers - 1) / workers * (stepped + 2 * MASTER_BYTES * sums))
    link = kind.link_gigabytes if nodes == 1 else kind.network_gigabytes
    rate = link * 1e9 or float("inf")
    hides = _hides(level, batch.accumulation, float32_sums=float32_sums) if kind.gpus else 0.0
    hidden = min((sent - late) / rate, hides * step_seconds)
    return Network(sent=sent, seconds=sent / rate, exposed_seconds=sent / rate - hidden)


def _hides(level: int, accumulation: int, *, float32_sums: bool) -> float:
    """Return the share of a step's computation during which gradients are sent.

    Level 0 sends after the backward pass, and so does level 1 with float32 sums. Level 1 sends
    while the last micro-batch is in it, level 2 in the backward pass of each, level 3 all the time.
    """
    if level == 0 or (level == 1 and float32_sums):
        return 0.0
    return {1: _BACKWARD / accumulation, 2: _BACKWARD}.get(level, 1.0)


def _added_up(stage: Stage, level: int, workers: int) -> int:
    """Return the most numbers in matrices that are cut between workers: Muon adds up their parts.

    A cut between two workers goes through one matrix at most, and at level 3 through all of them.
    """
    sizes = stage_matrices(stage)
    if level == 3:
        return sum(sizes)
    return sum(sizes[::-1][: workers - 1]) if level else 0
