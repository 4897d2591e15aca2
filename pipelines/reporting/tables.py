"""Make the tables of the page: each is escaped HTML, or "" if it has no content."""

import re
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from pipelines.cli.console import clock
from pipelines.reporting.amounts import (
    UNKNOWN,
    amount,
    byte_amount,
    counted,
    last_value,
    or_dash,
    total,
)
from pipelines.reporting.charts import number
from pipelines.reporting.content import StageContent
from pipelines.reporting.cost import StageCost
from pipelines.reporting.html import Cell, lines, table

MOST_COLUMNS = 6  # attempts side by side
_OF_ONE_CLASS = re.compile(r"class_accuracy/\d+$")


def stages_table(stages: Sequence[StageContent], costs: Sequence[StageCost]) -> str:
    """Make a table with the outcome of each attempt."""
    if not stages:
        return lines(["No stage of this run was started."])
    rows: list[list[Cell]] = []
    for stage, cost in zip(stages, costs, strict=True):
        config, metrics = stage.config, stage.metrics
        rows.append(
            [
                stage.name,
                (stage.status.lower(), "" if stage.status == "FINISHED" else "bad"),
                or_dash(config.get("model.image_size") or config.get("image_size"), " px"),
                amount(cost.parameters),
                _steps(stage),
                last_value(metrics, "val/accuracy"),
                last_value(metrics, "val/loss"),
                clock(cost.seconds) if cost.seconds else UNKNOWN,
            ]
        )
    heads = ("stage", "status", "resolution", "parameters", "steps", "val accuracy", "val loss")
    return table((*heads, "time"), rows, numbers=6)


def _steps(stage: StageContent) -> str:
    """Steps of a committed attempt; else how many of the planned ones were logged."""
    manifest = stage.manifest
    if manifest:
        step, trained = manifest.step, manifest.trained_steps
        return str(step) if step == trained else f"{step}, the best of {trained}"
    curve = stage.curves.get("train/loss", [])
    return f"{curve[-1][0] if curve else 0} of {stage.config['steps']}" if stage.trains else UNKNOWN


def metrics_table(stages: Sequence[StageContent]) -> str:
    """The last value of every metric of every attempt; those of single classes are left out."""
    names = sorted({name for stage in stages for name in stage.metrics if _is_metric(name)})
    if not names:
        return ""
    cells = [[last_value(stage.metrics, name) for stage in stages] for name in names]
    attempts = [label(stage, stages) for stage in stages]
    return _matrix("last value of", names, attempts, cells, numbers=True)


def configuration(stages: Sequence[StageContent]) -> str:
    """Fields that differ between the training stages, and those that do not; then the others'."""
    trained = [stage for stage in stages if stage.trains]
    names = sorted({name for stage in trained for name in stage.config} - {"name"})
    differ = [name for name in names if len({stage.config.get(name) for stage in trained}) > 1]
    same = [name for name in names if name not in differ]
    parts: list[str] = []
    if differ:
        cells: list[list[Cell]] = []
        for name in differ:
            values = [stage.config.get(name, UNKNOWN) for stage in trained]
            marks = ["", *("changed" if a != b else "" for a, b in pairwise(values))]
            cells.append(list(zip(values, marks, strict=True)))
        parts.append(lines(["What differs between the stages; marked where it changes."]))
        parts.append(_matrix("field", differ, [label(stage, stages) for stage in trained], cells))
    if same:
        summary = "the same in all training stages" if len(trained) > 1 else "all fields"
        parts.append(_fields(f"{counted(len(same), 'field')}: {summary}", trained[0], same))
    parts += [
        _fields(f"{label(stage, stages)}: {counted(len(stage.config), 'field')}", stage)
        for stage in stages
        if stage.config and not stage.trains
    ]
    return "".join(parts)


def _fields(summary: str, stage: StageContent, names: Sequence[str] | None = None) -> str:
    rows = [[name, (stage.config[name], "wrap")] for name in names or sorted(stage.config)]
    rows_table = table(["field", "value"], rows)
    return f"<details><summary>{escape(summary)}</summary>{rows_table}</details>"


def _matrix(
    corner: str,
    names: Sequence[str],
    attempts: Sequence[str],
    cells: Sequence[Sequence[Cell]],
    *,
    numbers: bool = False,
) -> str:
    """Make a table of names by attempts; with many attempts, these become the rows."""
    if len(attempts) <= MOST_COLUMNS:
        rows = [[name, *row] for name, row in zip(names, cells, strict=True)]
        return table([corner, *attempts], rows, numbers=len(attempts) if numbers else 0)
    columns = zip(*cells, strict=True)
    rows = [[attempt, *column] for attempt, column in zip(attempts, columns, strict=True)]
    return table(["stage", *names], rows, numbers=len(names) if numbers else 0)


def cost_table(stages: Sequence[StageContent], costs: Sequence[StageCost]) -> str:
    """Make a table of what each attempt took, and the total."""
    if not stages:
        return ""
    rows = [
        [
            label(stage, stages),
            clock(cost.seconds) if cost.seconds else UNKNOWN,
            amount(cost.images),
            UNKNOWN if cost.images_per_second is None else number(cost.images_per_second),
            amount(cost.training_flops, "FLOP"),
            amount(cost.evaluation_flops, "FLOP"),
            amount(cost.flops_per_second, "FLOP/s"),
            byte_amount(cost.read_bytes),
            amount(cost.read_requests),
        ]
        for stage, cost in zip(stages, costs, strict=True)
    ]
    if len(stages) > 1:
        seconds = total(cost.seconds for cost in costs)
        rows.append(
            [
                "together",
                clock(seconds) if seconds else UNKNOWN,
                amount(total(cost.images for cost in costs)),
                "",
                amount(total(cost.training_flops for cost in costs), "FLOP"),
                amount(total(cost.evaluation_flops for cost in costs), "FLOP"),
                "",
                byte_amount(total(cost.read_bytes for cost in costs)),
                amount(total(cost.read_requests for cost in costs)),
            ]
        )
    heads = ("stage", "time", "images", "images/s", "training", "evaluation", "speed", "read")
    explanation = (
        "Time is from the first start to the end, restarts and waiting included. Operations are"
        " those of the matrix products and convolutions, three forward passes per image in"
        " training; what is read is what was logged while training."
    )
    return table((*heads, "requests"), rows, numbers=8) + lines([explanation])


def _is_metric(name: str) -> bool:
    return not name.startswith("system/") and not _OF_ONE_CLASS.search(name)


def label(stage: StageContent, stages: Sequence[StageContent]) -> str:
    """The stage's name, with its attempt where the run holds several."""
    twice = sum(other.name == stage.name for other in stages) > 1
    return f"{stage.name} {stage.attempt}" if twice else stage.name
