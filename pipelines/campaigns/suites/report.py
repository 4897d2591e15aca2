"""Results of a suite: accuracy per task, group means with their spread over seeds, files."""

import csv
import io
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from pipelines.campaigns.suites.suite import GROUPS, Suite
from pipelines.cli.console import console_for_tables

ALL = "all tasks"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The final training of a task with one seed."""

    task: str
    group: str
    seed: int
    learning_rate: float
    held_out_accuracy: float | None
    """Accuracy of that learning rate in the sweep; None if there was no sweep."""
    accuracy: float
    """Top-1 on the test split, in [0, 1]."""
    stage: str
    attempt: str
    """Folder of the weights."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Mean accuracy of a task, a group or the suite, and its spread over seeds."""

    name: str
    tasks: int
    mean: float
    spread: float | None
    """Sample standard deviation over seeds of the seeds' means; None for one seed."""


def mean_of(name: str, results: Sequence[Result]) -> Mean:
    """Average over tasks for each seed, then over seeds: every task has the same weight."""
    seeds = sorted({result.seed for result in results})
    by_seed = [
        statistics.fmean(result.accuracy for result in results if result.seed == seed)
        for seed in seeds
    ]
    spread = statistics.stdev(by_seed) if len(by_seed) > 1 else None
    tasks = len({result.task for result in results})
    return Mean(name=name, tasks=tasks, mean=statistics.fmean(by_seed), spread=spread)


def means_of(results: Sequence[Result]) -> list[Mean]:
    """Return the mean of each group that has tasks, then of all tasks."""
    groups = [(g, [r for r in results if r.group == g]) for g in GROUPS]
    return [*(mean_of(g, chosen) for g, chosen in groups if chosen), mean_of(ALL, results)]


def files_of(
    suite: Suite, results: Sequence[Result], missing: Iterable[str], start: str
) -> dict[str, bytes]:
    """Make the files: name -> bytes."""
    name = f"suite-{suite.name}"
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(results[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(result) for result in results)
    content = {
        "suite": suite.name,
        "source": suite.source,
        "start": start,
        "not_packed": list(missing),
        "means": [asdict(mean) for mean in means_of(results)],
        "results": [asdict(result) for result in results],
    }
    data = json.dumps(content, indent=1).encode() + b"\n"
    return {f"{name}.csv": text.getvalue().encode(), f"{name}.json": data}


def print_suite(suite: Suite, results: Sequence[Result], start: str) -> None:
    """Print the tasks by group, with the mean below each group."""
    table = Table(title=f"suite {suite.name} from {start}", title_justify="left")
    for heading in ("group", "task"):
        table.add_column(heading)
    for heading in ("learning rate", "top-1", "spread", "runs"):
        table.add_column(heading, justify="right")
    for group in GROUPS:
        chosen = [result for result in results if result.group == group]
        for task in dict.fromkeys(result.task for result in chosen):
            runs = [result for result in chosen if result.task == task]
            mean = mean_of(task, runs)
            table.add_row(
                group, task, f"{runs[0].learning_rate:g}", *_figures(mean), str(len(runs))
            )
        if chosen:
            mean = mean_of(group, chosen)
            table.add_row(group, f"mean of {mean.tasks}", "", *_figures(mean), "", style="bold")
            table.add_section()
    mean_of_all = mean_of(ALL, results)
    table.add_row(
        "", f"mean of {mean_of_all.tasks} tasks", "", *_figures(mean_of_all), "", style="bold"
    )
    console = console_for_tables()
    console.print(table)


def _figures(mean: Mean) -> tuple[str, str]:
    return f"{mean.mean:.4f}", "-" if mean.spread is None else f"{mean.spread:.4f}"
