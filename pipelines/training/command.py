"""`pretrain.py`, `upscale.py`, `finetune.py`, `pipeline.py`: run the stages in order."""

import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from pipelines.cli.exits import errors_as_exits, stop_at_sigterm
from pipelines.cli.gpus import with_gpus_settled
from pipelines.cli.options import Command, program_name, read_command
from pipelines.cli.place import check_root
from pipelines.cli.ray_session import ray_session
from pipelines.lineage.adoption import FromCheckpointAndData
from pipelines.lineage.resume_states import drop_leftovers
from pipelines.lineage.source import downloads_kept
from pipelines.reporting.command import report_at_the_end
from pipelines.tracking.attempt_run import settle
from pipelines.tracking.client import open_client
from pipelines.training.driver import run_stage
from pipelines.training.outcomes import Outcome, next_commands, print_summary
from pipelines.training.prepare import Checked, Plan, check_stage, make_plan


def main(description: str, stage_name: str | None = None) -> NoReturn:
    """Run one stage, or all stages of the recipe, as the command line says; exit."""
    stopped = "stopped; run the same command again to continue from the last save, if there was one"
    with errors_as_exits(stopped=stopped):
        stop_at_sigterm()
        with downloads_kept():
            command = read_command(
                sys.argv[1:],
                prog=program_name(),
                description=description,
                stage_name=stage_name,
                adoption=FromCheckpointAndData() if stage_name else None,
            )
            checked = check_stages(command)
        outcomes = run_stages(command, checked)
    if len(outcomes) > 1:
        print_summary(outcomes, command)
        if any(outcome.status == "trained" for outcome in outcomes):
            report_at_the_end(command)
    else:
        print(next_commands(outcomes[0], command), flush=True)
    sys.exit(0)


def check_stages(command: Command) -> dict[str, Checked]:
    """Check by name each of the command's stages, and that its results can be stored."""
    with downloads_kept():
        checked = {stage.name: check_stage(stage, command.place) for stage in command.stages}
    check_root(command.place)
    return checked


def run_stages(command: Command, checked: Mapping[str, Checked]) -> list[Outcome]:
    """Run the command's stages in order, skipping what is committed; Ray starts when needed."""
    for line in command.notes:  # after the checks: an error is read where nothing stands above it
        print(line, flush=True)
    client = open_client(command.place.mlflow_uri, experiment=command.recipe.name)
    outcomes: list[Outcome] = []
    rest = list(command.stages)
    while rest:  # committed stages first: they need no Ray
        plan = make_plan(rest[0], command, checked[rest[0].name])
        if not plan.done:
            break
        outcomes.append(committed_already(plan, client))
        rest.pop(0)
    if not rest:
        return outcomes
    with ray_session(verbose=command.place.verbose):
        stop_at_sigterm()  # again: Ray's own handler aborts with a stack trace
        command = with_gpus_settled(command)
        for stage in rest:
            plan = make_plan(stage, command, checked[stage.name])
            done = plan.done
            outcomes.append(
                committed_already(plan, client) if done else run_stage(plan, command, client)
            )
    return outcomes


def committed_already(plan: Plan, client: Any) -> Outcome:
    """Say that a stage is done; do what its driver died before: drop states, end the MLflow run."""
    manifest = plan.attempt.manifest
    assert manifest is not None
    where = f"committed already in {plan.attempt.uri} (--force trains it again)"
    print(f"{plan.stage.name}: {where}", flush=True)
    for line in (
        drop_leftovers(plan.attempt.uri),
        *settle(client, manifest.to_json(), weights=True),
    ):
        if line:
            print(f"{plan.stage.name}: {line}", flush=True)
    return Outcome(plan.stage.name, "done already", manifest.metrics, 0.0, plan.attempt.uri)
