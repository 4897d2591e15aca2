"""A study's results as files: table (CSV, JSON), figure (PNG, SVG), and a table on the terminal."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from pipelines.campaigns.studies.cells import Cells, Row
from pipelines.campaigns.studies.study import Study
from pipelines.cli.console import console_for_tables

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def files_of(study: Study, rows: Sequence[Row], cells: Cells, lines: Sequence[str]) -> dict:
    """Make the files: name -> bytes."""
    drawn = figure(study, rows, cells)
    return {
        f"{study.name}.csv": as_csv(rows),
        f"{study.name}.json": as_json(study, rows, lines),
        f"{study.name}.png": _image(drawn, "png"),
        f"{study.name}.svg": _image(drawn, "svg"),
    }


def as_csv(rows: Sequence[Row]) -> bytes:
    """Write the rows as CSV: a line per point, a column per metric."""
    flat = [row.flat() for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().encode()


def as_json(study: Study, rows: Sequence[Row], lines: Sequence[str]) -> bytes:
    """Write the study with its rows and conclusions as JSON."""
    content = {
        "study": study.name,
        "question": study.title,
        "recipe": study.recipe.name,
        "source": study.source,
        "metric": study.metric,
        "paper": study.expected,
        "conclusion": list(lines),
        "rows": [row.flat() for row in rows],
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def figure(study: Study, rows: Sequence[Row], cells: Cells) -> Figure:
    """Draw the paper's figure: means as lines, single trainings as faint marks, in percent."""
    drawn = Figure(figsize=(5.2, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot()
    words = list(dict.fromkeys(cell.x for cell in cells.cells if isinstance(cell.x, str)))

    def position(x: float | str) -> float:
        return words.index(x) if isinstance(x, str) else x

    names = list(dict.fromkeys(cell.series for cell in cells.cells))
    for i, name in enumerate(names):
        line = sorted((position(cell.x), 100 * cell.mean) for cell in cells.of(name))
        color, marker = f"C{i}", MARKERS[i % len(MARKERS)]
        style = "" if words else "-"
        axes.plot(*zip(*line, strict=True), marker + style, color=color, label=name)
        runs = [(position(r.x), 100 * r.metrics[study.metric]) for r in rows if r.series == name]
        if len(runs) > len(line):
            axes.plot(*zip(*runs, strict=True), marker, color=color, alpha=0.35, markersize=4)
    if study.x.log:
        axes.set_xscale("log")
    if words:
        axes.set_xticks(range(len(words)), words)
        axes.margins(x=0.15)
    elif not study.x.log:
        axes.set_xticks(sorted({position(cell.x) for cell in cells.cells}))
    axes.set_xlabel(study.x.label)
    axes.set_ylabel(study.y.label)
    axes.grid(alpha=0.3)
    if len(names) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return drawn


def _image(drawn: Figure, kind: str) -> bytes:
    data = io.BytesIO()
    # No time stamps and no random ids: the same numbers give the same file.
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "vit-on-ray"}):
        drawn.savefig(data, format=kind, metadata=metadata)
    return data.getvalue()


def print_study(study: Study, rows: Sequence[Row], cells: Cells, lines: Sequence[str]) -> None:
    """Print the means, the conclusions, and what the paper found."""
    table = Table(title=f"{study.title} ({study.source})", title_justify="left")
    table.add_column("series")
    for heading in (study.x.label, "exaFLOP", study.metric, "runs"):
        table.add_column(heading, justify="right")
    for cell in cells.cells:
        row = next(other for other in rows if (other.series, other.x) == (cell.series, cell.x))
        x = cell.x if isinstance(cell.x, str) else f"{cell.x:,.4g}"
        table.add_row(cell.series, x, f"{row.exaflops:.3g}", f"{cell.mean:.4f}", str(cell.count))
    console = console_for_tables()
    console.print(table)
    for line in lines:
        console.print(f"- {line}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"The paper: {study.expected}.", highlight=False, soft_wrap=True, markup=False)
