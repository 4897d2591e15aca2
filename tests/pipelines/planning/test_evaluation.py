"""The plan counts what evaluations hold: they keep nothing, but compute more images at once."""

from dataclasses import replace

import pytest

from cluster.settings import Place
from pipelines.planning.hardware import find_node_kind
from pipelines.planning.memory import (
    activations_of,
    evaluated_at_once,
    evaluation_bytes,
    with_micro_batch,
)
from pipelines.recipes import find_recipe
from pipelines.recipes.objectives import stage_cost
from pipelines.recipes.stage import Stage
from vit.memory import forward_bytes

H100 = replace(find_node_kind("p5"), nodes=1)
PRETRAIN, UPSCALE = find_recipe("vit-h14-jft").stages[:2]
BASE = find_recipe("vit-b16-jft").stages[0]
AVERAGED = replace(PRETRAIN, optim=replace(PRETRAIN.optim, ema_decay=0.9999))
MAE = find_recipe("mae-h14").stages[0]


@pytest.mark.parametrize(
    ("stage", "place", "times"),
    [
        (PRETRAIN, Place(), 4),
        (AVERAGED, Place(), 4),
        (BASE, Place(recompute_activations=True), 2),
        (replace(PRETRAIN, train="head"), Place(), 1),
        (MAE, Place(), 4),
        (UPSCALE, Place(), 1),
    ],
    ids=["trained", "averaged", "recomputed", "head", "mae", "no-steps"],
)
def test_an_evaluation_needs_no_more_than_training(stage: Stage, place: Place, times: int) -> None:
    parameters = stage_cost(stage).parameters
    for micro in (16, 64):
        at_once = evaluated_at_once(stage, place, micro)
        assert at_once == times * micro
        if times > 1:
            held = activations_of(stage, place, micro)
            assert evaluation_bytes(stage, at_once, parameters) <= held


def test_a_few_images_of_a_large_averaged_model_are_not_made_more() -> None:
    """The model of the average is held as well."""
    parameters = stage_cost(AVERAGED).parameters
    assert evaluated_at_once(AVERAGED, Place(), 1) == 1
    assert evaluation_bytes(AVERAGED, 2, parameters) > activations_of(AVERAGED, Place(), 1)


def test_a_stage_without_steps_has_a_micro_batch_whose_evaluation_fits() -> None:
    assert UPSCALE.steps == 0
    parameters = stage_cost(UPSCALE).parameters
    settled = with_micro_batch(UPSCALE, Place(), H100, parameters, workers=1)
    assert settled.max_micro_batch is not None
    found, all_at_once = (
        forward_bytes(UPSCALE.model, images, element_bytes=2)
        for images in (settled.max_micro_batch, UPSCALE.global_batch)
    )
    assert found < H100.memory_gibibytes * 2**30 < all_at_once
