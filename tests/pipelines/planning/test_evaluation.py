"""The plan counts what evaluations hold: they keep nothing, but compute more images at once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cluster.batching import BatchPlan
from cluster.settings import Place
from pipelines.planning.hardware import find_node_kind
from pipelines.planning.memory import (
    activations_of,
    evaluated_at_once,
    evaluation_bytes,
    memory_at,
    with_micro_batch,
)
from pipelines.recipes import find_recipe
from pipelines.recipes.objectives import stage_cost, stage_network, stage_objective
from pipelines.recipes.stage import Stage
from pipelines.worker.validation import measure
from tests.pipelines.support.batches import columns
from tests.vit.support.live import LiveMemory
from vit import ViTConfig
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
        plan = BatchPlan(micro=micro, workers=8, accumulation=8)
        at_once = evaluated_at_once(stage, place, plan, parameters)
        assert at_once == times * micro
        if stage.steps:
            held = activations_of(stage, place, micro)
            assert evaluation_bytes(stage, at_once, parameters) <= held


@pytest.mark.parametrize(("accumulation", "times"), [(1, 1), (2, 2), (3, 3), (5, 1), (6, 3)])
def test_no_rest_of_a_batch_is_compiled_once_more(accumulation: int, times: int) -> None:
    plan = BatchPlan(micro=16, workers=8, accumulation=accumulation)
    parameters = stage_cost(PRETRAIN).parameters
    assert evaluated_at_once(PRETRAIN, Place(), plan, parameters) == 16 * times


def test_where_evaluating_holds_more_than_training_fewer_images_are_evaluated() -> None:
    """At 512 px, with recomputed activations, and with the model of the average."""
    place = Place(recompute_activations=True)
    stage = replace(find_recipe("vit-h14-jft").stage("finetune"), optim=AVERAGED.optim)
    parameters = stage_cost(stage).parameters
    plan = BatchPlan(micro=8, workers=8, accumulation=4)
    assert evaluation_bytes(stage, 8, parameters) > activations_of(stage, place, 8)
    at_once = evaluated_at_once(stage, place, plan, parameters)
    assert at_once < 8
    memory = memory_at(1, stage, replace(place, max_micro_batch=8), H100, parameters, workers=8)
    assert memory.activations >= evaluation_bytes(stage, at_once, parameters)


def test_what_a_plan_needs_is_the_larger_of_training_and_evaluation() -> None:
    """One image of a large averaged model: training holds less than the average alone."""
    parameters = stage_cost(AVERAGED).parameters
    stage = replace(AVERAGED, global_batch=8)
    memory = memory_at(1, stage, Place(), H100, parameters, workers=8)
    assert memory.activations == evaluation_bytes(stage, 1, parameters)
    assert memory.activations > activations_of(stage, Place(), 1)


@pytest.mark.parametrize("width", [768, 192])
@pytest.mark.parametrize("recipe", ["mae-b16", "masked-patch-b16", "vit-b16-imagenet1k"])
def test_the_bytes_of_an_evaluation_are_those_it_holds(
    recipe: str, width: int, tmp_path: Path
) -> None:
    base = find_recipe(recipe).stages[0]
    assert isinstance(base.model, ViTConfig)
    small = {"depth": 2, "width": width, "heads": width // 64, "mlp_dim": 4 * width}
    stage = replace(base, precision="float32", model=replace(base.model, **small))
    stage = replace(stage, optim=replace(stage.optim, ema_decay=None))
    network = stage_network(stage).eval()
    batch = columns(stage, 8, torch.device("cpu"))
    meeting = f"file://{tmp_path}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    given = (*batch.values(), *network.parameters(), *network.buffers())
    with torch.no_grad(), LiveMemory(*given) as memory:
        found = measure(
            stage,
            stage_objective(stage),
            network,
            [batch],
            device=torch.device("cpu"),
            micro_batch=8,
        )
        next(iter(found))
    dist.destroy_process_group()
    assert 0.95 < evaluation_bytes(stage, 8, 0) / memory.peak < 1.2


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
