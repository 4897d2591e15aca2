"""Suites as values: the protocol keeps the test split out of every choice."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.campaigns.suites import SUITES, find_suite
from pipelines.campaigns.suites.report import ALL, Result, mean_of, means_of
from pipelines.campaigns.suites.small import SMALL
from pipelines.campaigns.suites.suite import Suite, Task, best_rate, final_stages, sweep_stages
from pipelines.campaigns.suites.vtab import VTAB
from pipelines.recipes.digits import PRETRAIN, UPSCALE
from pipelines.recipes.paper import ROWS
from pipelines.recipes.stage import Stage
from storage.dataset import load_dataset
from storage.index import load_index
from storage.selection import Selection, select

START = replace(UPSCALE, parent="upscale")


def test_vtab_has_its_19_tasks_and_its_protocol() -> None:
    groups = [task.group for task in VTAB.tasks]
    assert [groups.count(g) for g in ("natural", "specialised", "structured")] == [7, 4, 8]
    assert (VTAB.train_samples, VTAB.held_out_samples) == (800, 200)
    # Table 4 and appendix B.1.1 of arXiv:2010.11929
    assert (VTAB.steps, VTAB.sweep, VTAB.image_size, VTAB.global_batch) == (2500, (0.01,), 384, 512)


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_sweeps_see_no_test_image_and_final_runs_all_training_ones(suite: Suite) -> None:
    suite = replace(suite, sweep=(0.1, 0.2))
    for task in suite.tasks:
        swept, finals = sweep_stages(suite, task, START), final_stages(suite, task, START, 0.2)
        assert list(swept) == [0.1, 0.2]
        for rate, stage in swept.items():
            assert stage.optim.peak_lr == rate
            assert stage.data.val_split == stage.data.train_split
            assert stage.data.val_selection.skip == stage.data.selection.samples
        assert [stage.seed for stage in finals] == list(range(suite.seeds))
        for stage in finals:
            assert stage.data.val_split == "val"
            assert stage.data.val_selection == Selection()
            assert stage.data.selection.samples == suite.train_samples + suite.held_out_samples
            assert stage.model.num_classes == task.num_classes
            assert stage.parent == "upscale"


def test_parts_of_a_task_are_disjoint_and_together_the_whole(local_data: str) -> None:
    index = load_index(load_dataset(f"{local_data}/digits"), "train")
    for task in SMALL.tasks[:4]:
        swept = next(iter(sweep_stages(SMALL, task, START).values()))
        final = final_stages(SMALL, task, START, 0.01)[0]
        selections = swept.data.selection, swept.data.val_selection, final.data.selection
        parts = [select(index, selection) for selection in selections]
        train, held_out, both = (set(positions.tolist()) for positions, _ in parts)
        assert (len(train), len(held_out)) == (160, 40)
        assert train | held_out == both
        for _, labels in parts:
            assert set(np.unique(labels)) == set(range(task.num_classes))


def test_one_rate_is_not_swept() -> None:
    assert sweep_stages(VTAB, VTAB.tasks[0], START) == {}


def test_of_equal_rates_the_smallest_is_taken() -> None:
    assert best_rate({0.03: 0.9, 0.01: 0.9, 0.1: 0.5}) == 0.01
    assert best_rate({0.03: 0.9, 0.01: 0.8}) == 0.03


def test_a_suite_keeps_the_weights_resolution_unless_it_has_its_own() -> None:
    def size(suite: Suite, start: Stage) -> int:
        return final_stages(suite, suite.tasks[0], start, 0.01)[0].image_size

    assert size(SMALL, START) == 24
    assert size(replace(SMALL, image_size=16), START) == 16
    assert size(VTAB, replace(PRETRAIN, parent="pretrain")) == 384
    assert size(VTAB, replace(ROWS["vit-h14-jft"], parent="pretrain")) == 392  # whole patches
    assert size(VTAB, replace(ROWS["bit-r50x1-jft"], parent="pretrain")) == 384


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes 3, but classes and labels leave 2"):
        Task(name="t", group="natural", dataset="d", num_classes=3, classes=(1, 2))
    with pytest.raises(ValueError, match="different learning rates"):
        replace(SMALL, sweep=(0.1, 0.1))
    with pytest.raises(ValueError, match="no suite 'large'"):
        find_suite("large")


def result(task: str, group: str, seed: int, accuracy: float) -> Result:
    return Result(
        task=task,
        group=group,
        seed=seed,
        learning_rate=0.01,
        held_out_accuracy=None,
        accuracy=accuracy,
        stage="",
        attempt="",
    )


def test_group_means_weigh_tasks_alike_and_spread_over_seeds() -> None:
    found = [
        result("a", "natural", 0, 0.8),
        result("a", "natural", 1, 0.9),
        result("b", "natural", 0, 0.4),
        result("b", "natural", 1, 0.5),
        result("c", "structured", 0, 0.3),
        result("c", "structured", 1, 0.3),
    ]
    natural, structured, whole = means_of(found)
    assert (natural.name, natural.tasks, structured.name, whole.name) == (
        "natural", 2, "structured", ALL,
    )  # fmt: skip
    assert natural.mean == pytest.approx(0.65)
    assert natural.spread == pytest.approx(np.std([0.6, 0.7], ddof=1))
    assert structured.spread == 0
    assert whole.mean == pytest.approx((0.5 + 1.7 / 3) / 2)
    assert mean_of("a", found[:1]).spread is None
