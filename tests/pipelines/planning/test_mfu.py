"""The share of the peak that a plan counts on: measured figures, guesses, and which is which."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.settings import Place, Workers, Zero
from pipelines.planning import command as planning
from pipelines.planning.command import plan, read_plan
from pipelines.planning.estimate import estimate
from pipelines.planning.hardware import NODE_KINDS
from pipelines.planning.images import Images
from pipelines.planning.mfu import Mfu, in_words, mfu_of
from pipelines.recipes import find_recipe
from pipelines.recipes.stage import Stage
from tests.pipelines.conftest import Said
from tests.test_docs import ROOT
from vit import VARIANTS

PLACE = Place(workers=Workers(gpus=1))
SIZES = {"S/16": 22_050_664, "B/16": 86_567_656, "L/16": 304_326_632, "H/14": 632_045_800}


def pretrain(recipe: str) -> Stage:
    return find_recipe(recipe).stage("pretrain")


def found(size: str, kind: str, *, compiled: bool = False) -> Mfu:
    place = replace(PLACE, compile=compiled)
    return mfu_of(pretrain("vit-b16-jft"), place, NODE_KINDS[kind], SIZES[size])


@pytest.mark.parametrize(
    ("row", "compiled"),
    [
        ("ours, engine level 1", False),
        ("ours, engine level 1, images from the host, compiled", True),
    ],
)
def test_measured_shares_are_those_of_the_page(row: str, *, compiled: bool) -> None:
    page = (ROOT / "docs" / "gpu.md").read_text()
    cells = re.findall(rf"^\| {row} \|(.*)\|$", page, re.MULTILINE)[-1]
    measured = [float(each) / 100 for each in re.findall(r"([\d.]+) %", cells)]
    planned = [found(size, "h200", compiled=compiled) for size in ("B/16", "L/16", "H/14")]
    assert [mfu.share for mfu in planned] == pytest.approx(measured)
    assert all(mfu.source.startswith("measured with") for mfu in planned)


@pytest.mark.parametrize("kind", ["p5", "p5e", "a3-highgpu-8g", "h200"])
def test_kinds_with_h100_or_h200_take_what_was_measured_on_an_h200(kind: str) -> None:
    assert found("H/14", kind) == Mfu(
        share=0.38, source="measured with H/14 on one H200, level 1: docs/gpu.md"
    )


@pytest.mark.parametrize("kind", ["p4d", "p4de", "g6e", "g5", "a2-highgpu-8g", "laptop"])
def test_on_other_kinds_it_is_a_guess(kind: str) -> None:
    assert found("B/16", kind) == Mfu(share=0.4, source="assumed: --cluster.mfu")


def test_what_was_not_measured_on_the_card_is_a_guess_too() -> None:
    assert found("S/16", "p5") == Mfu(share=0.2, source="assumed: --cluster.mfu")
    assert found("S/16", "p5").share < found("S/16", "p5", compiled=True).share
    stage = pretrain("vit-b16-jft")
    for other in (
        replace(stage, precision="float32"),
        replace(stage, model=VARIANTS["bit_r50x1"]),
    ):
        mfu = mfu_of(other, PLACE, NODE_KINDS["p5"], SIZES["B/16"])
        assert mfu.source.startswith("assumed")


def test_the_estimate_counts_the_models_own_parameters() -> None:
    images = Images(train=1, val=0, mean_bytes=1.0, run_samples=1, source="")
    recipes = ("vit-s16-baseline", "vit-b16-jft", "vit-l16-jft-14ep", "vit-h14-jft")
    estimates = [estimate(pretrain(name), PLACE, NODE_KINDS["p5"], images) for name in recipes]
    assert [each.mfu.share for each in estimates] == [0.2, 0.321, 0.378, 0.38]
    for each in estimates:
        peak = 8 * 989e12 * each.mfu.share
        assert each.images_per_second * each.training_gigaflops * 1e9 == pytest.approx(peak)


def test_the_command_lines_share_counts_for_all_stages_and_models() -> None:
    for recipe in ("vit-s16-baseline", "vit-b16-imagenet1k"):
        argv = ["--recipe", recipe, "--on", "p5", "--cluster.mfu", "0.5", "--place.compile"]
        estimates = plan(read_plan(argv, prog="plan.py", description=""))
        assert {each.mfu for each in estimates} == {Mfu(share=0.5, source="--cluster.mfu")}


def test_a_share_is_said_once_with_its_source() -> None:
    one, other = Mfu(share=0.321, source="measured"), Mfu(share=0.4, source="assumed")
    said = in_words([one, one, other])
    assert said == "32% of the peak (measured), 40% of the peak (assumed)"


@pytest.mark.parametrize(
    ("recipe", "on", "words"),
    [
        ("vit-h14-jft", "p5", "38% of the peak (measured with H/14 on one H200, level 1: docs"),
        ("vit-h14-jft", "p4d", "40% of the peak (assumed: --cluster.mfu)\n"),
    ],
)
def test_the_plan_says_whether_its_share_was_measured(
    called: Callable[..., Said], tmp_path: Path, recipe: str, on: str, words: str
) -> None:
    root = ("--place.data-root", str(tmp_path))
    said = called(planning.main, "plan", "--recipe", recipe, "--on", on, *root)
    assert words in said.out
    assert ("assumed" in said.out.partition("\n")[0]) == (on == "p4d")


def test_recomputed_activations_cost_a_forward_pass() -> None:
    stage, place = pretrain("vit-b16-jft"), replace(PLACE, recompute_activations=True)
    usual, slower = (
        mfu_of(stage, each, NODE_KINDS["p5"], SIZES["B/16"]) for each in (PLACE, place)
    )
    assert slower.share == pytest.approx(usual.share * 3 / 4)
    assert slower.source == f"{usual.source}; a quarter less: place.recompute-activations"
    own = replace(NODE_KINDS["p5"], mfu=0.5)
    assert mfu_of(stage, place, own, SIZES["B/16"]).share == 0.5
    head = replace(stage, train="head")  # there is nothing to recompute
    assert mfu_of(head, place, NODE_KINDS["p5"], SIZES["B/16"]).share == usual.share


@pytest.mark.parametrize(
    ("stage", "zero"),
    [
        (pretrain("vit-b16-jft"), Zero(level=3)),
        (pretrain("vit-b16-jft"), Zero(offload_optimizer=True)),
        (pretrain("mae-b16"), Zero()),
        (replace(pretrain("vit-b16-jft"), train="blocks 6.."), Zero()),
    ],
    ids=["level 3", "offloaded", "mae", "a part"],
)
def test_what_was_measured_otherwise_is_assumed(stage: Stage, zero: Zero) -> None:
    place = replace(PLACE, zero=zero)
    found = mfu_of(stage, place, NODE_KINDS["p5"], SIZES["B/16"])
    assert found.source == "assumed: --cluster.mfu"
