"""Which evaluation is the best, and when a stage ends: a function of the evaluations in order."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.recipes import RECIPES
from pipelines.recipes.digits import PRETRAIN
from pipelines.recipes.errors import Mistake
from pipelines.recipes.fingerprint import fingerprint
from pipelines.recipes.general import GENERAL
from pipelines.recipes.stage import Metric, Stage
from pipelines.worker.best import Evaluations

NAN = float("nan")
ACCURACY, LOSS = "val/accuracy", "val/loss"


def after(
    values: Sequence[float], metric: Metric, before: Evaluations | None = None
) -> Evaluations:
    """What is remembered of evaluations after every tenth step."""
    found = before or Evaluations()
    for value in values:
        step = 10 * (found.made + 1)
        found = found.after(step, {metric: value, "val/samples": 8.0}, metric)
    return found


@pytest.mark.parametrize(
    ("metric", "values", "step", "since"),
    [
        (ACCURACY, [0.1, 0.9, 0.5], 20, 1),
        (LOSS, [0.1, 0.9, 0.5], 10, 2),
        (ACCURACY, [0.9, 0.9, 0.9], 10, 2),  # the first of equals
        (LOSS, [0.5, 0.5, 0.4], 30, 0),
        (LOSS, [NAN, 0.5, NAN], 20, 1),
        (ACCURACY, [0.0, 0.0], 10, 1),  # the worst value is better than none
        (LOSS, [NAN, float("inf")], 0, 2),
    ],
)
def test_the_best_is_the_first_of_the_highest_accuracies_or_lowest_losses(
    metric: Metric, values: list[float], step: int, since: int
) -> None:
    found = after(values, metric)
    assert (found.step, found.since_best, found.made) == (step, since, len(values))
    assert (found.metrics == {}) == (step == 0)


def test_a_metric_beside_the_chosen_one_that_is_not_finite_rules_an_evaluation_out() -> None:
    good = Evaluations().after(10, {ACCURACY: 0.5, LOSS: 1.0}, ACCURACY)
    assert good.after(20, {ACCURACY: 0.9, LOSS: NAN}, ACCURACY).step == 10


def test_a_stage_ends_after_so_many_evaluations_without_a_better_one() -> None:
    values = [0.5, 0.4, 0.6, 0.6, 0.5, 0.1]
    ends = [after(values[: n + 1], ACCURACY).ends(3) for n in range(len(values))]
    assert ends == [False, False, False, False, False, True]
    assert not after([0.5] * 100, ACCURACY).ends(0)


@given(
    values=st.lists(st.sampled_from([0.1, 0.2, 0.3, NAN]), max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    metric=st.sampled_from([ACCURACY, LOSS]),
)
def test_a_choice_that_went_through_resume_states_is_the_same(
    values: list[float], cuts: list[int], metric: Any
) -> None:
    found = Evaluations()
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    for first, last in pairwise(edges):
        found = Evaluations(**json.loads(json.dumps(asdict(found))))
        found = after(values[first:last], metric, found)
    assert found == after(values, metric)


def test_only_the_general_recipes_choose_and_no_other_changed_its_name() -> None:
    choosing = {recipe.name for recipe in RECIPES.values() for s in recipe.stages if s.chooses}
    assert choosing == {"finetune", "probe"}
    (general,) = GENERAL.stages
    assert (general.keep, general.metric, general.patience) == ("best", ACCURACY, 10)
    names = {
        fingerprint(stage, dataset_digest="d", parent=None)
        for stage in (
            PRETRAIN,
            replace(PRETRAIN, keep="best"),
            replace(PRETRAIN, keep="best", metric=LOSS),
            replace(PRETRAIN, keep="best", patience=2),
            replace(PRETRAIN, patience=2),
        )
    }
    assert len(names) == 5
    assert "718eb30c2c293fdb" in names  # as version 0.1.0 computed it


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patience": -1}, "patience: wanted at least 0, found -1"),
        ({"keep": "best", "metric": "val_ema/loss"}, "metric val_ema/loss: .*optim.ema_decay"),
    ],
)
def test_a_choice_that_cannot_be_made_says_why(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Mistake, match=said):
        replace(PRETRAIN, **changes)


def test_the_average_can_choose_where_there_is_one() -> None:
    optim = replace(PRETRAIN.optim, ema_decay=0.9)
    assert isinstance(replace(PRETRAIN, optim=optim, metric="val_ema/loss", keep="best"), Stage)
