import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from pipelines.campaigns.studies import STUDIES, find_study
from pipelines.campaigns.studies.cells import Row, cells_of
from pipelines.campaigns.studies.report import figure, files_of, print_study
from pipelines.campaigns.studies.study import Study


def measured(study: Study) -> list[Row]:
    """Rows with made-up accuracies."""
    return [
        Row(
            series=point.series,
            x=point.x,
            seed=point.seed,
            stage=point.stage,
            attempt="0123456789abcdef",
            parameters=1000,
            images=64,
            exaflops=1e-6,
            metrics={"val/accuracy": 0.5, study.metric: 0.3 + 0.02 * i},
        )
        for i, point in enumerate(study.points)
    ]


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_table_a_figure_and_a_conclusion(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = find_study(name, "cpu", 2)
    rows = measured(study)
    cells = cells_of(rows, study.metric)
    lines = study.conclude(cells)
    assert lines
    files = files_of(study, rows, cells, lines)
    assert files[f"{name}.png"].startswith(b"\x89PNG")
    assert b"<svg" in files[f"{name}.svg"]
    table = list(csv.DictReader(io.StringIO(files[f"{name}.csv"].decode())))
    assert [line["stage"] for line in table] == [point.stage for point in study.points]
    assert float(table[1][study.metric]) == pytest.approx(0.32)
    content = json.loads(files[f"{name}.json"])
    assert content["conclusion"] == lines
    assert len(content["rows"]) == len(rows)
    print_study(study, rows, cells, lines)
    said = capsys.readouterr().out
    assert all(f"- {line}" in said for line in lines)
    assert f"The paper: {study.expected}." in said


def test_figures_have_the_papers_axes_and_percent() -> None:
    study = find_study("data-size", "cpu")
    rows = measured(study)
    (axes,) = figure(study, rows, cells_of(rows, study.metric)).axes
    assert axes.get_xlabel() == "Number of pre-training samples"
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "5-shot linear top-1 accuracy [%]"
    assert len(axes.lines) == 3  # architectures
    assert np.asarray(axes.lines[0].get_xdata()).tolist() == [500, 4000, 32_000]
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == pytest.approx([30, 32, 34])


def test_the_same_numbers_give_the_same_files() -> None:
    study = find_study("pos-embed", "cpu")
    rows = measured(study)
    cells = cells_of(rows, study.metric)
    once, again = (files_of(study, rows, cells, ["a"]) for _ in range(2))
    assert once == again
    other = [replace(row, metrics={study.metric: 0.1}) for row in rows]
    assert files_of(study, other, cells_of(other, study.metric), ["a"]) != once
