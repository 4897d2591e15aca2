"""`pipelines/suite.py NAME`: fine-tune the same weights on every task that is packed.

1. sweep    train each task at each learning rate; evaluate on held-out training examples
2. final    train on all examples at the best rate, per seed; evaluate on the test split
3. files    write tables to the run's folder, to MLflow, and to --out
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import tyro

from cluster.settings import Place
from pipelines.campaigns.campaign import (
    CampaignOptions,
    campaign,
    command_of,
    print_plan,
    publish,
)
from pipelines.campaigns.concurrent_stages import run_concurrently
from pipelines.campaigns.suites import find_suite
from pipelines.campaigns.suites.report import Result, files_of, print_suite
from pipelines.campaigns.suites.suite import Suite, Task, best_rate, final_stages, sweep_stages
from pipelines.cli.command_line import program_name, read_options
from pipelines.cli.console import clock
from pipelines.cli.exits import errors_as_exits
from pipelines.cli.options import Command
from pipelines.recipes import find_recipe
from pipelines.recipes.errors import Mistake
from pipelines.recipes.stage import Recipe, Stage
from pipelines.tracking.client import open_client
from pipelines.training.outcomes import Outcome, mlflow_command
from storage.dataset import load_dataset
from storage.errors import DatasetNotFound
from storage.uri import join


@dataclass(frozen=True, kw_only=True)
class SuiteOptions(CampaignOptions):
    """Options of `suite.py`."""

    name: tyro.conf.Positional[str]
    """Suite to run: small or vtab."""
    recipe: str | None = None
    """Recipe whose weights are fine-tuned. Default: place.recipe."""
    start: str | None = None
    """Stage of the recipe whose weights are fine-tuned. Default: the parent of the last stage."""
    init: str | None = None
    """Checkpoint (path or s3://) to start from instead; it must fit the model of that stage."""
    scratch: bool = False
    """Start from random weights instead, as a control."""
    tasks: tuple[str, ...] = ()
    """Tasks to run. Default: all whose dataset is packed."""
    sweep: tuple[float, ...] | None = None
    """Learning rates to choose from. Default: those of the suite."""
    steps: int | None = None
    """Training steps per task. Default: those of the suite."""
    seeds: int | None = None
    """Final trainings per task, each with another seed. Default: those of the suite."""


def main(description: str) -> NoReturn:
    """Run the suite of the command line; exit with a code of `pipelines.cli.exits`."""
    stopped = "stopped; run the same command again to continue: committed stages are skipped"
    with errors_as_exits(stopped=stopped):
        options, place = read_options(
            SuiteOptions, sys.argv[1:], prog=program_name(), description=description
        )
        run_suite(options, place)
    sys.exit(0)


def run_suite(options: SuiteOptions, place: Place) -> list[Result]:
    """Sweep, train, publish; return a result per task and seed (none with --plan)."""
    began = time.monotonic()
    suite = _suite(options)
    recipe = find_recipe(options.recipe or place.recipe)
    start, ancestors = start_of(recipe, options)
    tasks, missing = packed_tasks(suite, place)
    if missing:
        print(f"not packed under {place.data_root}, left out: {', '.join(missing)}", flush=True)
    if options.plan:  # estimates need no data
        tasks = list(suite.tasks)
    elif not tasks:
        names = dict.fromkeys(task.dataset for task in suite.tasks)
        raise Mistake(
            f"suite {suite.name}: none of its datasets is packed under {place.data_root}:"
            f" {', '.join(names)} - pack one, see pipelines/pack.py --help"
        )
    run = options.run or recipe.name

    def command(stages: Sequence[Stage]) -> Command:
        extended = Recipe(name=recipe.name, stages=(*ancestors, *stages))
        made = command_of(extended, run, place, config=options.config)
        return replace(made, stages=tuple(stages))

    sweeps = {task.name: sweep_stages(suite, task, start) for task in tasks}
    swept = [stage for by_rate in sweeps.values() for stage in by_rate.values()]
    if options.plan:
        assumed = [s for task in tasks for s in final_stages(suite, task, start, suite.sweep[0])]
        print_plan(command([*swept, *assumed]), options.on)
        return []
    client = open_client(place.mlflow_uri)
    with campaign(command(swept), client, f"suite-{suite.name}") as tracker:
        tried = run_concurrently(command(swept), client, parallel=options.parallel)
        chosen = {task.name: _choose(suite, sweeps[task.name], tried) for task in tasks}
        finals = {t.name: final_stages(suite, t, start, chosen[t.name][0]) for t in tasks}
        last = command([stage for stages in finals.values() for stage in stages])
        outcomes = run_concurrently(last, client, parallel=options.parallel)
        results = [
            _result(task, stage, chosen[task.name], outcomes[stage.name])
            for task in tasks
            for stage in finals[task.name]
        ]
        origin = describe_start(start)
        print_suite(suite, results, origin)
        files = files_of(suite, results, missing, origin)
        where = publish(last, tracker, files, options.out)
    print(f"{', '.join(files)} in {where}, {clock(time.monotonic() - began)}")
    print(f"Browse the runs: {mlflow_command(place.mlflow_uri)}")
    return results


def _suite(options: SuiteOptions) -> Suite:
    """Return the suite with the overrides of the command line.

    Raises:
        Mistake: the suite or a task is unknown, or a number is out of range.
    """
    suite = find_suite(options.name)
    known = {task.name: task for task in suite.tasks}
    unknown = [name for name in options.tasks if name not in known]
    if unknown:
        raise Mistake(
            f"suite {suite.name} has no task {unknown[0]!r} - there are: {', '.join(known)}"
        )
    return replace(
        suite,
        tasks=tuple(known[name] for name in options.tasks) or suite.tasks,
        sweep=suite.sweep if options.sweep is None else options.sweep,
        steps=suite.steps if options.steps is None else options.steps,
        seeds=suite.seeds if options.seeds is None else options.seeds,
    )


def start_of(recipe: Recipe, options: SuiteOptions) -> tuple[Stage, tuple[Stage, ...]]:
    """Return the stage that gives tasks their model, `parent` and `init`, and its ancestors.

    Raises:
        Mistake: the recipe has no such stage, or two starts are given.
    """
    if options.init and options.scratch:
        raise Mistake("--init and --scratch exclude each other: give one")
    name = options.start or recipe.stages[-1].parent or recipe.stages[-1].name
    stage = recipe.stage(name)
    if options.init or options.scratch:
        return replace(stage, parent=None, init=options.init), ()
    chain, ancestor = [stage], stage
    while ancestor.parent:
        ancestor = recipe.stage(ancestor.parent)
        chain.insert(0, ancestor)
    return replace(stage, parent=name, init=None), tuple(chain)


def describe_start(start: Stage) -> str:
    """Describe where the weights come from."""
    return start.parent or start.init or "random weights"


def packed_tasks(suite: Suite, place: Place) -> tuple[list[Task], list[str]]:
    """Return the tasks whose dataset is packed, and the names of the others.

    Raises:
        storage.errors.BadDataset: a manifest is broken.
    """
    packed, missing = [], []
    for task in suite.tasks:
        try:
            load_dataset(join(place.data_root, task.dataset))
        except DatasetNotFound:
            missing.append(task.name)
        else:
            packed.append(task)
    return packed, missing


def _choose(
    suite: Suite, by_rate: dict[float, Stage], tried: dict[str, Outcome]
) -> tuple[float, float | None]:
    """Choose the learning rate; return it with its held-out accuracy."""
    if not by_rate:
        return suite.sweep[0], None
    accuracy = {rate: tried[stage.name].metrics["val/accuracy"] for rate, stage in by_rate.items()}
    rate = best_rate(accuracy)
    return rate, accuracy[rate]


def _result(
    task: Task, stage: Stage, chosen: tuple[float, float | None], outcome: Outcome
) -> Result:
    return Result(
        task=task.name,
        group=task.group,
        seed=stage.seed,
        learning_rate=chosen[0],
        held_out_accuracy=chosen[1],
        accuracy=outcome.metrics["val/accuracy"],
        stage=stage.name,
        attempt=outcome.weights.rsplit("/", 1)[-1],
    )
