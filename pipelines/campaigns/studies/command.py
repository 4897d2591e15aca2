"""`pipelines/study.py NAME`: train what is not committed, measure, plot, and draw conclusions.

1. stages        train in parallel as the cluster allows; skip committed ones
2. few-shot      measure each point's weights; results are kept in the run
3. rows, means   compute means and the spread over repeated trainings
4. files         write table and figure to the run's folder, to MLflow, and to --out
"""

import sys
import time
from dataclasses import dataclass
from typing import Any, NoReturn

import tyro

from pipelines.campaigns.campaign import (
    CampaignOptions,
    campaign,
    command_of,
    print_plan,
    publish,
)
from pipelines.campaigns.concurrent_stages import run_concurrently
from pipelines.campaigns.studies import find_study
from pipelines.campaigns.studies.cells import Row, cells_of
from pipelines.campaigns.studies.conclusions import spread_line
from pipelines.campaigns.studies.few_shot import few_shot_of
from pipelines.campaigns.studies.report import files_of, print_study
from pipelines.campaigns.studies.study import Size, Study, row_of
from pipelines.cli.command_line import program_name, read_options
from pipelines.cli.console import clock
from pipelines.cli.exits import Failed, errors_as_exits
from pipelines.cli.options import Command
from pipelines.lineage.source import committed_source
from pipelines.tracking.attempt_run import settle, spool_path
from pipelines.tracking.client import open_client
from pipelines.tracking.reader import read_history
from pipelines.training.outcomes import Outcome, mlflow_command


@dataclass(frozen=True, kw_only=True)
class StudyOptions(CampaignOptions):
    """Options of `study.py`."""

    name: tyro.conf.Positional[str]
    """Study to run: data-size, scaling, pos-embed, resolution, patch-size, shape or
    self-supervised."""
    size: Size = "cpu"
    """cpu: on Fashion-MNIST, in minutes; paper: as in the paper. Only the recipes differ."""
    seeds: int | None = None
    """Trainings per point, each with another seed. Default: those of the study."""


def main(description: str) -> NoReturn:
    """Run the study of the command line; exit with a code of `pipelines.cli.exits`."""
    stopped = "stopped; run the same command again to continue: committed stages are skipped"
    with errors_as_exits(stopped=stopped):
        options, place = read_options(
            StudyOptions, sys.argv[1:], prog=program_name(), description=description
        )
        study = find_study(options.name, options.size, options.seeds)
        run = options.run or study.recipe.name
        command = command_of(study.recipe, run, place, config=options.config)
        if options.plan:
            print_plan(command, options.on)
        else:
            run_study(study, command, options)
    sys.exit(0)


def run_study(study: Study, command: Command, options: CampaignOptions) -> list[Row]:
    """Run, measure, publish; return the rows."""
    began = time.monotonic()
    client = open_client(command.place.mlflow_uri)
    with campaign(command, client, f"study-{study.name}") as tracker:
        outcomes = run_concurrently(command, client, parallel=options.parallel)
        rows = measured(study, command, outcomes, client)
        cells = cells_of(rows, study.metric)
        lines = [*study.conclude(cells), spread_line(cells)]
        print_study(study, rows, cells, lines)
        files = files_of(study, rows, cells, lines)
        folder = publish(command, tracker, files, options.out)
    print(f"{', '.join(files)} in {folder}, {clock(time.monotonic() - began)}")
    print(f"Browse the runs: {mlflow_command(command.place.mlflow_uri)}")
    return rows


def measured(
    study: Study, command: Command, outcomes: dict[str, Outcome], client: Any
) -> list[Row]:
    """Return a row per point: its stage's metrics, best accuracy so far, few-shot accuracy."""
    names = dict.fromkeys(point.stage for point in study.points)
    sources = {name: committed_source(outcomes[name].weights) for name in names}
    few: dict[str, dict[str, float]] = {name: {} for name in names}
    if study.few_shot is not None:
        few = few_shot_of(sources, study.few_shot, command.place, run=command.options.run)
    rows = []
    for point in study.points:
        source = sources[point.stage]
        manifest = source.committed
        metrics = dict(manifest.metrics)
        metrics.pop("val/seconds", None)  # depends on the machine, not on the network
        for line in settle(client, manifest.to_json()):
            print(f"{point.stage}: {line}")
        if spool_path(manifest.mlflow_run_id).exists():
            raise Failed(
                f"MLflow does not have all metrics of stage {point.stage} yet, so the best accuracy"
                " during training is unknown - run the same command again when MLflow answers"
            )
        history = read_history(client, manifest.mlflow_run_id, "val/accuracy")
        on_the_way = [value for _, value in history]
        metrics["best/accuracy"] = max([metrics["val/accuracy"], *on_the_way])
        rows.append(row_of(study, point, source.name, metrics | few[point.stage]))
    return rows
