"""Run the stages of a command in order: on Ray, tracked in MLflow."""

from collections.abc import Mapping
from typing import Any

from pipelines.cli.on_ray import on_ray
from pipelines.cli.options import Command
from pipelines.lineage.resume_states import drop_leftovers
from pipelines.reporting.command import report_at_the_end
from pipelines.tracking.attempt_run import settle
from pipelines.tracking.client import open_client
from pipelines.training.driver import run_stage
from pipelines.training.outcomes import Outcome, next_commands, print_summary
from pipelines.training.prepare import Checked, Plan, make_plan


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
    with on_ray(command) as command:
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


def print_end(outcomes: list[Outcome], command: Command) -> None:
    """Print what became of the stages, and the commands that come next."""
    if len(outcomes) == 1:
        print(next_commands(outcomes[0], command), flush=True)
        return
    print_summary(outcomes, command)
    if any(outcome.status == "trained" for outcome in outcomes):
        report_at_the_end(command)
