"""Print the estimates as two tables with the source of each figure, and advice."""

from rich.table import Table

from cluster.settings import Place
from pipelines.cli.console import console_for_tables, days_or_clock
from pipelines.cli.options import Command
from pipelines.planning.advice import advice
from pipelines.planning.estimate import Estimate
from pipelines.planning.hardware import NodeKind
from pipelines.planning.memory import GIB, nodes_for
from pipelines.planning.mfu import in_words


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
    for line in advice(estimates, command.place, kind):
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
    (
        "of it not hidden, s",
        lambda e: f"{e.network_exposed_seconds:,.2g}",
        "not in the time above",
    ),
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
