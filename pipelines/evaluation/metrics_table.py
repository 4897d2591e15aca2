"""Print the metrics of an evaluation."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from pipelines.evaluation.evaluation import Evaluation


def print_metrics(evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
    """Print the metrics except those of single classes, which are in a table file."""
    table = Table(
        title=f"{evaluation.candidate.name} on {evaluation.protocol.dataset}", title_justify="left"
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        if not is_of_one_class(name.partition("/")[2]):
            shown = f"{value:.0f}" if name.endswith("samples") else f"{value:.4g}"
            table.add_row(name, shown)
    Console(soft_wrap=True).print(table)


def is_of_one_class(name: str) -> bool:
    """Whether a metric belongs to a single class: those are in a table file as well."""
    kind, _, number = name.partition("/")
    return kind == "class_accuracy" and number.isdigit()
