"""Parts of the page that depend on how many attempts there are, and of what kind."""

from dataclasses import replace

import pytest

from pipelines.reporting import sections, tables
from pipelines.reporting.content import StageContent
from pipelines.reporting.cost import cost_of

STAGE = StageContent(
    name="pretrain",
    attempt="aaaa",
    status="FINISHED",
    began_ms=1_000,
    ended_ms=61_000,
    run_id="r",
    uri="runs/r/pretrain/aaaa",
    manifest=None,
    config={"global_batch": "64", "steps": "100", "seed": "0", "optim.peak_lr": "0.001"},
    tags={},
    metrics={"val/accuracy": 0.5, "system/cpu": 99.0},
    curves={"train/loss": [(1, 2.0), (100, 1.0)]},
    pictures={},
    left_out=(),
)
EVALUATION = replace(
    STAGE,
    name="evaluate",
    attempt="eeee",
    config={"split": "val", "shots": "(1, 5)"},
    metrics={"val/few_shot/5": 0.75, "val/class_accuracy/3": 0.25},
    curves={},
)


def seeds(count: int) -> list[StageContent]:
    return [
        replace(STAGE, attempt=f"a{at}", config={**STAGE.config, "seed": str(at)})
        for at in range(count)
    ]


def test_attempts_are_columns_until_they_are_too_many() -> None:
    few = tables.configuration(seeds(3))
    assert "<th scope=col>pretrain a2</th>" in few
    assert "<th scope=row>seed</th>" in few
    many = tables.configuration(seeds(9))
    assert "<th scope=row>pretrain a8</th>" in many
    assert "<th scope=col>seed</th>" in many
    assert many.count('class="changed"') == 8  # each but the first differs from the one before
    assert "<h3>" in sections.curves(seeds(3))
    assert "<h3>" not in sections.curves(seeds(9))
    assert sections.curves(seeds(9)).count("<details>") == 9


def test_one_attempt_is_not_compared() -> None:
    page = tables.configuration([STAGE])
    assert "4 fields: all fields" in page
    assert "changed" not in page


def test_an_evaluation_has_numbers_but_is_not_compared_with_training() -> None:
    stages = [STAGE, EVALUATION]
    page = tables.configuration(stages)
    assert "changed" not in page
    assert "evaluate: 2 fields" in page
    table = tables.metrics_table(stages)
    assert "<th scope=row>val/few_shot/5</th>" in table
    assert '<td class="n">0.75</td>' in table
    assert "class_accuracy" not in table
    assert "system/cpu" not in table
    costs = [cost_of(stage) for stage in stages]
    assert [cost.images for cost in costs] == [6400, None]
    assert [cost.seconds for cost in costs] == [60, 60]
    assert "2:00" in tables.cost_table(stages, costs)  # together


@pytest.mark.parametrize("status", ["RUNNING", "KILLED"])
def test_what_did_not_finish_is_marked(status: str) -> None:
    stage = replace(STAGE, status=status, ended_ms=None, curves={}, metrics={})
    page = tables.stages_table([stage], [cost_of(stage)])
    assert f'<td class="bad">{status.lower()}</td>' in page
    assert '<td class="n">0 of 100</td>' in page
    assert sections.curves([stage]) == ""


def test_a_run_without_stages_says_so() -> None:
    assert "No stage of this run was started" in tables.stages_table([], [])
    assert tables.cost_table([], []) == ""
    assert tables.configuration([]) == ""
    assert tables.metrics_table([]) == ""
