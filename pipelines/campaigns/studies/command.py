"""`pipelines/study.py NAME`: run what is not committed, measure, draw, and say what it supports.

1. stages        skipped where committed, side by side as the cluster allows
2. few-shot      on each point's weights; kept in the run
3. rows, means   with the spread of repeated runs
4. files         table, figure: in the run's folder, in MLflow, and in --out
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
from pipelines.cli.console import clock
from pipelines.cli.exits import Failed, errors_as_exits
from pipelines.cli.options import Command, program_name, read_options
from pipelines.tracking.client import open_client, settle, spool_path
from pipelines.tracking.reader import read_history
from pipelines.training.outcomes import Outcome, mlflow_command
from storage import weights


@dataclass(frozen=True, kw_only=True)
class StudyOptions(CampaignOptions):
    """Arguments of `study.py`."""

    name: tyro.conf.Positional[str]
    """data-size, scaling, pos-embed, resolution or patch-size."""
    size: Size = "cpu"
    """On Fashion-MNIST in minutes, or as in the paper; they differ in their recipe alone."""
    seeds: int | None = None
    """Training runs of each point; default: the study's own number."""


def main(description: str) -> NoReturn:
    """Run the study that the command line names; exit as `pipelines.cli.exits` says."""
    stopped = "stopped; run the same command again: what is committed is not run twice"
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
    """A row a point: metrics of its stage, the best it had on the way, few-shot accuracy."""
    names = dict.fromkeys(point.stage for point in study.points)
    few: dict[str, dict[str, float]] = {name: {} for name in names}
    if study.few_shot is not None:
        attempts = {name: outcomes[name].weights for name in names}
        few = few_shot_of(attempts, study.few_shot, command.place, run=command.options.run)
    rows = []
    for point in study.points:
        uri = outcomes[point.stage].weights
        manifest = weights.read_manifest(uri)
        assert manifest is not None, f"{uri} is not committed"
        metrics = dict(manifest["metrics"])
        metrics.pop("val/seconds", None)  # of a machine, not of a network
        for line in settle(client, manifest):
            print(f"{point.stage}: {line}")
        if spool_path(manifest["mlflow_run_id"]).exists():
            raise Failed(
                f"MLflow has not got all metrics of stage {point.stage} yet: the best accuracy on"
                " the way is not known - run the same command again when it answers"
            )
        history = read_history(client, manifest["mlflow_run_id"], "val/accuracy")
        on_the_way = [value for _, value in history]
        metrics["best/accuracy"] = max([metrics["val/accuracy"], *on_the_way])
        rows.append(row_of(study, point, uri.rsplit("/", 1)[-1], metrics | few[point.stage]))
    return rows
