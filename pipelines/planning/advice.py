"""What to change, judging from the estimates: one line each."""

from math import ceil

from cluster.settings import Place
from pipelines.planning.estimate import Estimate
from pipelines.planning.hardware import NodeKind
from pipelines.planning.memory import GIB

_SAVE_SECONDS = 300.0  # saving more often than this brings a warning
NODE_CPUS = 32
"""CPUs of a `cpu-spot` node: c6i.8xlarge in cluster/aws.yaml, n2-standard-32 in gcp.yaml."""
SMALLER_SIDE, SMALLER_GAIN = 256, 2.77
"""Pixels, and how many times as fast such photographs are decoded (docs/stream.md; measured with
quality 90, from 107 kB)."""
_LARGE_BYTES = 80_000  # about what is gained by half: smaller images are not worth packing again
_SLOWED = 0.1  # so does a network that makes a step longer by more than this


def advice(estimates: list[Estimate], place: Place, kind: NodeKind) -> list[str]:
    """Return where the numbers of images come from, what will go wrong, and settings that fit."""
    lines = list(dict.fromkeys(f"data: {stage.images.source}" for stage in estimates))
    for stage in estimates:
        lines += [f"{stage.stage}: {line}" for line in _of_stage(stage, place, kind)]
    fitting = fitting_place(estimates, place, kind)
    if fitting:
        return [*lines, f"settings that fit: {' '.join(fitting)}"]
    none = "no ZeRO level fits all stages even with one image per worker - use larger GPUs"
    return [*lines, none]


def _of_stage(stage: Estimate, place: Place, kind: NodeKind) -> list[str]:
    lines: list[str] = []
    own = next((line for line in stage.memory if line.level == place.zero.level), None)
    if own is None:
        lines.append("bfloat16 needs --place.zero.level 1, 2 or 3")
    elif not own.fits:
        lines.append(
            f"{own.peak / GIB:.1f} GiB do not fit into {stage.limit_bytes / GIB:.1f}"
            f" at --place.zero.level {own.level}"
        )
    if not stage.epochs:  # evaluation only
        return lines
    if stage.decode_cpus > stage.spare_cpus:
        stops = kind.gpus > 0 and place.decode_on_gpu_nodes is None
        lines.append(_of_decoding(stage, gpu_nodes_stop=stops))
    if stage.network_exposed_seconds > _SLOWED * stage.step_seconds:
        lines.append(
            f"the network adds {stage.network_exposed_seconds:.2g} s to each step of"
            f" {stage.step_seconds:.2g} s, which the time above leaves out - use fewer nodes or a"
            " faster network"
        )
    gap = stage.save_period * stage.step_seconds
    if 0 < gap < _SAVE_SECONDS and stage.days > 0.1:
        lines.append(
            f"a resume state of {stage.state_bytes / 1e9:.1f} GB every"
            f" {gap:.0f} s - raise --place.save-every-steps from {stage.save_period}"
        )
    return lines


def _of_decoding(stage: Estimate, *, gpu_nodes_stop: bool) -> str:
    """Return what feeds a stage that the nodes' CPUs cannot: more CPUs, or smaller images.

    GPU nodes may stop decoding where there are others (`cluster.placement`).
    """
    nodes = ceil((stage.decode_cpus - stage.spare_cpus) / NODE_CPUS)
    line = (
        f"decoding wants {stage.decode_cpus:,.0f} CPUs, the nodes have {stage.spare_cpus:,.0f} to"
        f" spare, so training waits for data - add CPU nodes ({nodes} with {NODE_CPUS} CPUs each)"
    )
    if stage.spare_cpus and gpu_nodes_stop:
        line += " and --place.decode-on-gpu-nodes True"
    if stage.images.mean_bytes < _LARGE_BYTES or stage.image_size > SMALLER_SIDE:
        return line
    wants = stage.decode_cpus / SMALLER_GAIN
    enough = "" if wants <= stage.spare_cpus else ", still too many"
    return (
        f"{line}, or pack smaller images: with pack.py --shorter-side {SMALLER_SIDE} decoding wants"
        f" {wants:,.0f} CPUs{enough} (docs/stream.md)"
    )


def fitting_place(estimates: list[Estimate], place: Place, kind: NodeKind) -> list[str]:
    """Return options with which all stages fit: the lowest ZeRO level that can; empty if none does.

    On GPUs `max_micro_batch` stays null, or becomes it: each stage then finds its own largest
    (`pipelines.worker.micro_batch`). On CPUs null is 64 for all: the smallest that fits is given.
    """
    levels = [level for level in (1, 2, 3) if all(_largest(stage, level) for stage in estimates)]
    if not levels:
        return []
    workers = str(estimates[0].workers)
    options = [
        *("--place.workers.min", workers, "--place.workers.max", workers),
        *("--place.workers.gpus", str(int(kind.gpus > 0))),
        *("--place.zero.level", str(levels[0])),
    ]
    if not kind.gpus:
        least = min(_largest(stage, levels[0]) for stage in estimates)
        return [*options, "--place.max-micro-batch", str(least)]
    if place.max_micro_batch is not None:
        return [*options, "--place.max-micro-batch", "None"]
    return options


def _largest(stage: Estimate, level: int) -> int:
    """Return the largest micro-batch at a level; 0 if the stage does not support that level."""
    return next((m.largest_micro_batch for m in stage.memory if m.level == level), 0)
