"""Shared by studies and suites: options, the --plan table, and where results go.

Both are many stages of one recipe in one run. Their tables and figures go to the run's folder,
beside the stages, and to an MLflow run of their own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cluster.settings import Place
from pipelines.cli.console import console_for_tables, days_or_clock
from pipelines.cli.options import Command, NoOptions, Options, check_run
from pipelines.cli.place import CONFIG
from pipelines.lineage.status import attempts_under, what_would_run
from pipelines.planning.estimate import Estimate, check_sharing, estimate
from pipelines.planning.hardware import default_kind, find_node_kind
from pipelines.planning.images import images_of
from pipelines.planning.mfu import in_words
from pipelines.recipes.stage import Recipe
from pipelines.tracking.attempt_run import open_tracker
from pipelines.tracking.tracker import Tracker
from storage.objects import open_store
from storage.uri import join


@dataclass(frozen=True, kw_only=True)
class CampaignOptions:
    """Options of `study.py` and `suite.py`."""

    run: str | None = None
    """Name of the run that holds the stages. Default: the name of the recipe."""
    config: Path = CONFIG
    """YAML file with the deployment settings (--place.*)."""
    parallel: int | None = None
    """Stages that train at the same time; on CPUs they share the cores. Default: as many as fit."""
    plan: bool = False
    """Print the stages with the estimated time and cost of each, and exit."""
    on: str | None = None
    """Kind of node for the estimates of --plan, as in plan.py --on. Default: this machine, or with
    GPUs the nodes of cluster/aws.yaml."""
    out: Path | None = None
    """Folder for another copy of the tables and figures."""

    def __post_init__(self) -> None:
        if self.run is not None:
            check_run(self.run)


def command_of(recipe: Recipe, run: str, place: Place, *, config: Path = CONFIG) -> Command:
    """Make the command that runs all stages of the recipe."""
    options = Options(recipe=recipe.name, run=run, config=config)
    return Command(
        options=options, recipe=recipe, stages=recipe.stages, place=place, own=NoOptions()
    )


def print_plan(command: Command, on: str | None) -> None:
    """Print a row per stage with its estimate and state, and the sum of what is left to run."""
    kind_name = on or default_kind(command.options.config)
    kind, place = find_node_kind(kind_name), command.place
    check_sharing(command.stages, place, kind)
    estimates = [estimate(stage, place, kind, images_of(stage, place)) for stage in command.stages]
    attempts = attempts_under(place.storage_root, run=command.options.run)
    states = {verdict.stage: verdict.state for verdict in what_would_run(command, attempts)}
    table = Table(
        title=f"{command.options.recipe}, run {command.options.run}, on {kind_name}",
        title_justify="left",
    )
    table.add_column("stage", no_wrap=True)
    for heading in ("parameters", "images", "exaFLOP", "time", "cost, $"):
        table.add_column(heading, justify="right")
    table.add_column("state")
    for stage, expected in zip(command.stages, estimates, strict=True):
        images = stage.steps * stage.global_batch
        table.add_row(stage.name, *_figures(expected, images), states[stage.name])
    console = console_for_tables()
    console.print(table)
    left = [entry for entry in estimates if states[entry.stage] != "committed"]
    console.print(
        f"{len(left)} of {len(estimates)} stages to run:"
        f" {sum(entry.exaflops for entry in left):,.4g} exaFLOP,"
        f" {days_or_clock(sum(entry.days for entry in left))} one after the other,"
        f" ${sum(entry.dollars for entry in left):,.0f};"
        f" {in_words(entry.mfu for entry in estimates)}; starting up and few-shot evaluation not"
        " counted",
        highlight=False,
        soft_wrap=True,
    )


def _figures(stage: Estimate, images: int) -> tuple[str, ...]:
    flops = f"{stage.exaflops:,.3g}"
    return (
        f"{stage.parameters:,}",
        f"{images:,}",
        flops,
        days_or_clock(stage.days),
        f"{stage.dollars:,.0f}",
    )


@contextmanager
def campaign(command: Command, client: Any, name: str) -> Iterator[Tracker]:
    """Open the MLflow run of the study or suite; this also creates the parent run of the stages."""
    tracker = open_tracker(
        client,
        experiment=command.recipe.name,
        run=command.options.run,
        stage=name,
        attempt=join(command.place.storage_root, command.options.run, name),
        tags={"campaign": name},
        params={},
    )
    with tracker.running(print):
        yield tracker


def publish(
    command: Command, tracker: Tracker, files: Mapping[str, bytes], out: Path | None
) -> str:
    """Write the files to the run's folder, MLflow, and `out` if given; return the run's folder."""
    folder = join(command.place.storage_root, command.options.run)
    store = open_store(folder)
    for name, data in files.items():
        store.write(name, data)
        tracker.log_file(name, data)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)
    return folder
