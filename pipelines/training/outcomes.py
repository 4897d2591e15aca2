"""The table at the end of a pipeline, and the command that opens MLflow."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.cli.console import clock
from pipelines.cli.options import Command
from pipelines.cli.place import CONFIG, place_of, resolve_place
from pipelines.cli.redaction import redact


@dataclass(frozen=True)
class Outcome:
    """What became of one stage."""

    stage: str
    status: str
    """`trained` or `done already`."""
    metrics: Mapping[str, float]
    seconds: float
    weights: str


def print_summary(outcomes: list[Outcome], command: Command) -> None:
    """Stages with status, accuracy, time and the place of their weights."""
    console = Console(soft_wrap=True)
    table = Table(title=f"run {command.options.run}", title_justify="left")
    for heading in ("stage", "status"):
        table.add_column(heading)
    for heading in ("val accuracy", "time"):
        table.add_column(heading, justify="right")
    table.add_column("weights", overflow="fold")
    for outcome in outcomes:
        table.add_row(
            outcome.stage,
            outcome.status,
            accuracy_of(outcome.metrics),
            clock(outcome.seconds) if outcome.seconds else "-",
            outcome.weights,
        )
    console.print(table)
    console.print(f"Browse the runs: {mlflow_command(command.place.mlflow_uri)}")


def next_commands(outcome: Outcome, command: Command) -> str:
    """The commands that measure and use what one stage has trained."""
    options, recipe = command.options, command.recipe
    words = ["--recipe", options.recipe, "--run", options.run]
    if outcome.stage != recipe.stages[-1].name:
        words += ["--only", outcome.stage]
    usual = resolve_place(place_of(options.config), cwd=Path.cwd())
    if options.config != CONFIG:
        words += ["--config", str(options.config)]
    for name in ("storage_root", "data_root"):
        if getattr(usual, name) != getattr(command.place, name):
            words += [f"--place.{name.replace('_', '-')}", getattr(command.place, name)]
    arguments = shlex.join(words)
    measured = f"measure it: pipelines/evaluate.py {arguments}"
    if recipe.stage(outcome.stage).objective != "classify":
        return f"{measured} --evaluators few-shot knn probe"
    return f"{measured}\nuse it: pipelines/predict.py {arguments} IMAGES"


def accuracy_of(metrics: Mapping[str, float]) -> str:
    """Validation accuracy of the weights and of their average, as far as they were measured.

    Of weights that were trained without labels it is a linear probe's.
    """
    if "val/accuracy" not in metrics:
        probe = metrics.get("val/probe_accuracy")
        return "-" if probe is None else f"{probe:.4f} (linear probe)"
    live = f"{metrics['val/accuracy']:.4f}"
    average = metrics.get("val_ema/accuracy")
    return live if average is None else f"{live} (average {average:.4f})"


def mlflow_command(uri: str) -> str:
    """How to look at the runs of a tracking URI."""
    if uri.startswith(("http://", "https://")):
        return f"open {redact(uri)}"
    return f"mlflow ui --backend-store-uri {redact(uri)} --host 127.0.0.1 --port 5000"
