"""Print the estimates as two tables with the source of each figure, and advice."""

from rich.table import Table

from cluster.settings import Place
from pipelines.cli.console import console_for_tables, days_or_clock
from pipelines.cli.options import Command
from pipelines.planning.estimate import Estimate, fitting_place
from pipelines.planning.hardware import NodeKind
from pipelines.planning.memory import GIB, nodes_for
from pipelines.planning.mfu import in_words

_SAVE_SECONDS = 300.0  # saving more often than this brings a warning


def print_plan(estimates: list[Estimate], command: Command) -> None:
    """Print what the stages take, memory by ZeRO level, and what to do."""
    console = console_for_tables()
    kind = command.own.cluster
    workers, nodes = nodes_for(command.place, kind)
    each = f"{kind.gpus} GPUs" if kind.gpus else f"{kind.cpus} CPUs"
    console.print(
        f"recipe {command.options.recipe} on {nodes} x {command.own.on}: {workers} workers,"
        f" {each} per node, {in_words(stage.mfu for stage in estimates)}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_stages(estimates, kind))
    console.print(_memory(estimates, command.place))
    for line in _advice(estimates, command):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _stages(estimates: list[Estimate], kind: NodeKind) -> Table:
    table = Table(title="what the stages take", title_justify="left")
    table.add_column("", no_wrap=True)
    for stage in estimates:
        table.add_column(stage.stage, justify="right", no_wrap=True)
    table.add_column("from")
    for name, show, source in _ROWS:
        table.add_row(name, *(show(stage) for stage in estimates), source)
    if kind.dollars_per_node_hour:
        price = f"nodes x hours x ${kind.dollars_per_node_hour:g}, and S3"
        table.add_row("cost, $", *(f"{stage.dollars:,.0f}" for stage in estimates), price)
    return table


_ROWS = (
    ("parameters", lambda e: f"{e.parameters:,}", "vit.cost"),
    ("GFLOP per image", lambda e: f"{e.training_gigaflops:,.4g}", "6 x multiply-adds, vit.cost"),
    ("exaFLOP", lambda e: f"{e.exaflops:,.4g}", "images x GFLOP, with evaluations"),
    ("epochs", lambda e: f"{e.epochs:,.1f}", "steps x global batch / images"),
    ("global batch", lambda e: e.batch, "micro x workers x accumulation"),
    ("MFU", lambda e: f"{e.mfu.share:.1%}", "see the first line"),
    ("images/s", lambda e: f"{e.images_per_second:,.0f}", "peak x MFU / GFLOP"),
    ("step, s", lambda e: f"{e.step_seconds:,.3g}", "global batch / images/s"),
    ("time", lambda e: days_or_clock(e.days), "exaFLOP / (peak x MFU)"),
    ("worker-days", lambda e: f"{e.gpu_days:,.3g}", "days x workers"),
    (
        "network, MB per step",
        lambda e: f"{e.network_bytes / 1e6:,.0f}",
        "per worker, ring: cluster.budget",
    ),
    ("network, s per step", lambda e: f"{e.network_seconds:,.2g}", "MB / the slowest link"),
    ("decoding, CPUs", lambda e: f"{e.decode_cpus:,.1f}", "images/s x CPU time to decode"),
    ("CPUs available", lambda e: f"{e.spare_cpus:,.0f}", "nodes x CPUs - workers"),
    ("S3 requests to read", lambda e: f"{e.read_requests:,.0f}", "images / run of the order"),
    ("S3 reads, GB", lambda e: f"{e.read_bytes / 1e9:,.1f}", "images x mean bytes"),
    ("S3 writes, GB", lambda e: f"{e.written_bytes / 1e9:,.2f}", "resume states and weights"),
)


def _memory(estimates: list[Estimate], place: Place) -> Table:
    table = Table(title="memory per worker, GiB (* is --place.zero.level)", title_justify="left")
    for heading in ("stage", "ZeRO"):
        table.add_column(heading)
    for heading in ("states", "gradients", "buffers", "activations", "peak", "of"):
        table.add_column(heading, justify="right")
    table.add_column("at micro-batch", justify="right")
    table.add_column("largest", justify="right")
    for stage in estimates:
        for line in stage.memory:
            table.add_row(
                stage.stage,
                f"{line.level}{'*' if line.level == place.zero.level else ''}",
                *(
                    f"{count / GIB:.2f}"
                    for count in (
                        line.states,
                        line.gradients,
                        line.buffers,
                        line.activations,
                        line.peak,
                        stage.limit_bytes,
                    )
                ),
                str(stage.micro_batch) if line.fits else f"{stage.micro_batch}: too large",
                str(line.largest_micro_batch),
            )
    return table


def _advice(estimates: list[Estimate], command: Command) -> list[str]:
    """Return what to change, judging from the estimates."""
    place, kind = command.place, command.own.cluster
    lines = [f"data: {stage.images.source}" for stage in estimates]
    lines = list(dict.fromkeys(lines))
    for stage in estimates:
        own = next((line for line in stage.memory if line.level == place.zero.level), None)
        if own is None:
            lines.append(f"{stage.stage}: bfloat16 needs --place.zero.level 1, 2 or 3")
        elif not own.fits:
            lines.append(
                f"{stage.stage}: {own.peak / GIB:.1f} GiB do not fit into"
                f" {stage.limit_bytes / GIB:.1f} at --place.zero.level {own.level}"
            )
        if not stage.epochs:  # evaluation only
            continue
        if stage.decode_cpus > stage.spare_cpus:
            lines.append(
                f"{stage.stage}: decoding wants {stage.decode_cpus:,.0f} CPUs, the nodes have"
                f" {stage.spare_cpus:,.0f} to spare - add CPU nodes, or training waits for data"
            )
        if stage.network_seconds > 0.3 * stage.step_seconds:
            lines.append(
                f"{stage.stage}: the network takes {stage.network_seconds:.2g} s of a step of"
                f" {stage.step_seconds:.2g} s - use fewer nodes or a faster network"
            )
        gap = stage.save_period * stage.step_seconds
        if 0 < gap < _SAVE_SECONDS and stage.days > 0.1:
            lines.append(
                f"{stage.stage}: a resume state of {stage.state_bytes / 1e9:.1f} GB every"
                f" {gap:.0f} s - raise --place.save-every-steps from {stage.save_period}"
            )
    fitting = fitting_place(estimates, kind)
    if fitting:
        lines.append(f"settings that fit: {' '.join(fitting)}")
    else:
        lines.append(
            "no ZeRO level fits all stages even with one image per worker - use larger GPUs"
        )
    return lines
