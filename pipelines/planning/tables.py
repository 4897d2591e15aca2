"""The plan as two tables, each figure with its source, and what it asks of its reader."""

from rich.table import Table

from cluster.settings import Place
from pipelines.cli.console import console_for_tables, days_or_clock
from pipelines.cli.options import Command
from pipelines.planning.estimate import Estimate, fitting_place
from pipelines.planning.hardware import Cluster
from pipelines.planning.memory import GIB, nodes_for

_SAVE_SECONDS = 300.0  # saving more often than that is named


def print_plan(estimates: list[Estimate], command: Command) -> None:
    """Two tables: what the stages take, and memory by ZeRO level; then what to do."""
    console = console_for_tables()
    cluster = command.own.cluster
    workers, nodes = nodes_for(command.place, cluster)
    each = f"{cluster.gpus} GPUs" if cluster.gpus else f"{cluster.cpus} CPUs"
    console.print(
        f"recipe {command.options.recipe} on {nodes} x {command.own.on}: {workers} workers,"
        f" {each} a node, {cluster.mfu:.0%} of the peak (an assumption: --cluster.mfu)",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_stages(estimates, cluster))
    console.print(_memory(estimates, command.place))
    for line in _advice(estimates, command):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _stages(estimates: list[Estimate], cluster: Cluster) -> Table:
    table = Table(title="what the stages take", title_justify="left")
    table.add_column("", no_wrap=True)
    for one in estimates:
        table.add_column(one.stage, justify="right", no_wrap=True)
    table.add_column("from")
    for name, show, source in _ROWS:
        table.add_row(name, *(show(one) for one in estimates), source)
    if cluster.dollars_per_node_hour:
        price = f"nodes x hours x ${cluster.dollars_per_node_hour:g}, and S3"
        table.add_row("cost, $", *(f"{one.dollars:,.0f}" for one in estimates), price)
    return table


_ROWS = (
    ("parameters", lambda e: f"{e.parameters:,}", "vit.cost"),
    ("GFLOP an image", lambda e: f"{e.training_gigaflops:,.4g}", "6 x multiply-adds, vit.cost"),
    ("exaFLOP", lambda e: f"{e.exaflops:,.4g}", "images x GFLOP, with evaluations"),
    ("epochs", lambda e: f"{e.epochs:,.1f}", "steps x global batch / images"),
    ("global batch", lambda e: e.batch, "micro x workers x accumulation"),
    ("images/s", lambda e: f"{e.images_per_second:,.0f}", "peak x MFU / GFLOP"),
    ("step, s", lambda e: f"{e.step_seconds:,.3g}", "global batch / images/s"),
    ("time", lambda e: days_or_clock(e.days), "exaFLOP / (peak x MFU)"),
    ("worker-days", lambda e: f"{e.gpu_days:,.3g}", "days x workers"),
    (
        "network, MB a step",
        lambda e: f"{e.network_bytes / 1e6:,.0f}",
        "a worker, ring: cluster.budget",
    ),
    ("network, s a step", lambda e: f"{e.network_seconds:,.2g}", "MB / the slowest link"),
    ("decoding, CPUs", lambda e: f"{e.decode_cpus:,.1f}", "images/s x CPU time to decode"),
    ("CPUs there are", lambda e: f"{e.spare_cpus:,.0f}", "nodes x CPUs - workers"),
    ("S3 requests to read", lambda e: f"{e.read_requests:,.0f}", "images / run of the order"),
    ("S3 reads, GB", lambda e: f"{e.read_bytes / 1e9:,.1f}", "images x mean bytes"),
    ("S3 writes, GB", lambda e: f"{e.written_bytes / 1e9:,.2f}", "resume states and weights"),
)


def _memory(estimates: list[Estimate], place: Place) -> Table:
    table = Table(title="memory of a worker, GiB (* is the place's level)", title_justify="left")
    for heading in ("stage", "ZeRO"):
        table.add_column(heading)
    for heading in ("states", "gradients", "buffers", "activations", "peak", "of"):
        table.add_column(heading, justify="right")
    table.add_column("at micro-batch", justify="right")
    table.add_column("largest", justify="right")
    for one in estimates:
        for line in one.memory:
            table.add_row(
                one.stage,
                f"{line.level}{'*' if line.level == place.zero.level else ''}",
                *(
                    f"{count / GIB:.2f}"
                    for count in (
                        line.states,
                        line.gradients,
                        line.buffers,
                        line.activations,
                        line.peak,
                        one.limit_bytes,
                    )
                ),
                str(one.micro_batch) if line.fits else f"{one.micro_batch}: too large",
                str(line.largest_micro_batch),
            )
    return table


def _advice(estimates: list[Estimate], command: Command) -> list[str]:
    """What the numbers ask of their reader."""
    place, cluster = command.place, command.own.cluster
    lines = [f"data: {one.images.source}" for one in estimates]
    lines = list(dict.fromkeys(lines))
    for one in estimates:
        own = next((line for line in one.memory if line.level == place.zero.level), None)
        if own is None:
            lines.append(f"{one.stage}: bfloat16 needs zero.level 1, 2 or 3")
        elif not own.fits:
            lines.append(
                f"{one.stage}: {own.peak / GIB:.1f} GiB do not fit into"
                f" {one.limit_bytes / GIB:.1f} at zero.level {own.level}"
            )
        if not one.epochs:  # evaluates alone
            continue
        if one.decode_cpus > one.spare_cpus:
            lines.append(
                f"{one.stage}: decoding wants {one.decode_cpus:,.0f} CPUs, the nodes have"
                f" {one.spare_cpus:,.0f} to spare - add CPU nodes, or it waits for data"
            )
        if one.network_seconds > 0.3 * one.step_seconds:
            lines.append(
                f"{one.stage}: the network takes {one.network_seconds:.2g} s of a step of"
                f" {one.step_seconds:.2g} s - fewer nodes or a faster network"
            )
        gap = place.save_every_steps * one.step_seconds
        if 0 < gap < _SAVE_SECONDS and one.days > 0.1:
            lines.append(
                f"{one.stage}: a resume state of {one.state_bytes / 1e9:.1f} GB is written every"
                f" {gap:.0f} s - raise save_every_steps from {place.save_every_steps}"
            )
    fitting = fitting_place(estimates, cluster)
    if fitting:
        lines.append(f"a place that fits: {' '.join(fitting)}")
    else:
        lines.append("no ZeRO level fits all stages with one image a worker: take larger GPUs")
    return lines
