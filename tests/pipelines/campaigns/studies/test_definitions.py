"""The studies as values: what they hold constant, what they vary, and the paper's own numbers."""

from dataclasses import asdict, replace
from typing import get_args

import pytest

from pipelines.campaigns.studies import STUDIES, find_study, self_supervised, shape
from pipelines.campaigns.studies.study import Size, Study
from pipelines.recipes.fingerprint import flatten
from pipelines.recipes.stage import Stage
from storage.dataset import load_dataset
from storage.index import load_index
from storage.selection import Selection, select
from vit import ViTConfig

SIZES: tuple[Size, ...] = get_args(Size)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("size", SIZES)
def test_every_study_has_every_size_and_draws_the_same_figure(name: str, size: Size) -> None:
    study, other = find_study(name, size), find_study(name, "cpu")
    assert study.name == name
    assert study.x == other.x
    assert study.source == other.source
    assert {stage.name for stage in study.recipe.stages} >= {p.stage for p in study.points}


# What differs between the measured stages of one series and seed, and nothing else.
VARIED = {
    "data-size": {"name", "data.selection.samples"},
    "pos-embed": {"name", "model.pos_embed"},
    "resolution": {"name", "model.image_size"},
}


@pytest.mark.parametrize("name", VARIED)
@pytest.mark.parametrize("size", SIZES)
def test_points_of_a_series_differ_in_what_is_studied_alone(name: str, size: Size) -> None:
    study = find_study(name, size)
    groups: dict[tuple[str, int], list[Stage]] = {}
    for point in study.points:
        stage = study.recipe.stage(point.stage)
        groups.setdefault((point.series, point.seed), []).append(stage)
    for stages in groups.values():
        first = flatten(asdict(stages[0]))
        varied = {
            key
            for stage in stages[1:]
            for key, value in flatten(asdict(stage)).items()
            if value != first[key]
        }
        assert varied == VARIED[name]


def test_seeds_are_repetitions() -> None:
    study = find_study("patch-size", "cpu", 3)
    assert [point.seed for point in study.points] == [0, 1, 2] * 3
    for point in study.points:
        stage = study.recipe.stage(point.stage)
        assert stage.seed == point.seed
        twin = study.recipe.stage(point.stage.removesuffix(f"s{point.seed}") + "s0")
        assert replace(stage, name=twin.name, seed=0) == twin


@pytest.mark.parametrize("size", SIZES)
def test_the_lines_of_the_shape_meet_in_the_base(size: Size) -> None:
    study = find_study("shape", size)
    base = study.recipe.stage("base-s0")
    if size == "paper":  # appendix D.2 of arXiv:2010.11929
        model = base.model
        assert isinstance(model, ViTConfig)
        assert (model.depth, model.width, model.mlp_dim, model.patch_size) == (8, 1024, 2048, 32)
    for series, changed in shape.LINES.items():
        line = {point.x: point.stage for point in study.points if point.series == series}
        assert len(line) >= 3
        assert line[1.0].startswith("base-")
        for stage in (study.recipe.stage(name) for name in line.values()):
            fields = flatten(asdict(stage.model))
            own = flatten(asdict(base.model))
            assert {name for name in fields if fields[name] != own[name]} <= {*changed}


def test_data_size_holds_out_what_no_subset_has(local_data: str) -> None:
    """The draw's rule, on data that is here: skipped from the end of the largest subset."""
    stages = find_study("data-size", "cpu").recipe.stages
    held_out = stages[0].data.val_selection
    largest = max(stage.data.selection.samples or 0 for stage in stages)
    assert stages[0].data.val_split == stages[0].data.train_split
    assert largest <= held_out.skip
    assert held_out.classes == stages[0].data.selection.classes
    index = load_index(load_dataset(f"{local_data}/digits"), "train")
    few = [replace(stages[i].data.selection, samples=n) for i, n in ((0, 100), (1, 400))]
    held = replace(held_out, samples=100, skip=400)
    small, large, kept = (set(select(index, one)[0].tolist()) for one in (*few, held))
    assert small < large
    assert len(kept) == 100
    assert not kept & large


@pytest.fixture(scope="module")
def paper_scaling() -> Study:
    return find_study("scaling", "paper")


@pytest.mark.parametrize(
    ("row", "found"),
    [  # Table 6 of arXiv:2010.11929
        ("vit-b32-jft", 55),
        ("vit-b16-jft", 224),
        ("vit-l32-jft", 196),
        ("vit-l16-jft", 783),
        ("vit-l16-jft-14ep", 1567),
        ("vit-h14-jft", 4262),
        ("bit-r50x1-jft", 50),
        ("bit-r50x2-jft", 199),
        ("bit-r101x1-jft", 96),
        ("bit-r152x1-jft", 141),
        ("bit-r152x2-jft", 563),
        ("bit-r152x2-jft-14ep", 1126),
        ("r50-vit-b32-jft", 106),
        ("r50-vit-b16-jft", 274),
        ("r50-vit-l32-jft", 246),
        ("r50-vit-l16-jft", 859),
        ("r50-vit-l16-jft-14ep", 1668),
    ],
)
def test_the_scaling_study_takes_the_papers_exaflops(
    paper_scaling: Study, row: str, found: float
) -> None:
    (point,) = (point for point in paper_scaling.points if point.stage == f"{row}-s0")
    assert point.x == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("nothing", "cpu"), "no study 'nothing'"), (("scaling", "cpu", 0), "--seeds 0")],
)
def test_mistakes_are_named(arguments: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_study(*arguments)


@pytest.mark.parametrize("size", SIZES)
def test_fine_tunings_differ_in_parent_and_labels_alone(size: Size) -> None:
    study = find_study("self-supervised", size)
    stages = {(p.series, p.x, p.seed): study.recipe.stage(p.stage) for p in study.points}
    first = next(iter(stages.values()))
    for (series, x, seed), stage in stages.items():
        assert stage.data.selection == Selection(per_class=int(x))
        same = replace(stage, name="", parent=None, data=first.data, seed=0)
        assert same == replace(first, name="", parent=None, data=first.data, seed=0)
        if series == self_supervised.SCRATCH:
            assert stage.parent is None
        else:
            assert stage.parent is not None
            parent = study.recipe.stage(stage.parent)
            assert parent.objective == series
            assert parent.seed == seed
            assert parent.data.selection == Selection()
