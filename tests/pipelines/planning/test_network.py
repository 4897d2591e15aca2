"""Traffic of a step: how much of it computation hides, at each level."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.batching import BatchPlan
from cluster.settings import ZeroLevel
from pipelines.planning import command as planning
from pipelines.planning.hardware import NODE_KINDS, NodeKind
from pipelines.planning.network import Network, network_of
from pipelines.recipes import find_recipe
from pipelines.recipes.objectives import stage_cost
from tests.pipelines.conftest import Said

STAGE = find_recipe("vit-b16-jft").stage("pretrain")  # bfloat16
WEIGHTS = stage_cost(STAGE).parameters
SLOW = replace(NODE_KINDS["p4d"], network_gigabytes=1.0)  # all that a step hides is not enough
STEP = 0.15  # seconds
SENT = 8 / 9 * 2 * WEIGHTS / 1e9
"""Seconds to reduce-scatter, or to gather, bfloat16 weights between nine workers."""


def of(
    level: ZeroLevel, accumulation: int = 1, kind: NodeKind = SLOW, name: str = "adamw"
) -> Network:
    stage = replace(STAGE, optim=replace(STAGE.optim, name=name))
    batch = BatchPlan(micro=4, workers=9, accumulation=accumulation)
    return network_of(
        stage, kind, batch, level=level, parameters=WEIGHTS, nodes=9, step_seconds=STEP
    )


@pytest.mark.parametrize(
    ("level", "accumulation", "seconds", "hidden"),
    [
        (0, 1, 2 * SENT, 0.0),  # after the backward pass
        (1, 1, 3 * SENT, STEP * 2 / 3),  # while it goes on; then the weights are gathered
        (1, 4, 5 * SENT, 0.0),  # float32 sums, after the last
        (2, 1, 3 * SENT, STEP * 2 / 3),
        (2, 4, 9 * SENT, STEP * 2 / 3),  # in the backward pass of each
        (3, 4, 8 * SENT, STEP),
    ],
)
def test_a_slow_network_is_hidden_by_what_is_computed_meanwhile(
    level: ZeroLevel, accumulation: int, seconds: float, hidden: float
) -> None:
    found = of(level, accumulation)
    assert found.seconds == pytest.approx(seconds)
    assert found.seconds - found.exposed_seconds == pytest.approx(hidden)


def test_float32_at_level_1_sends_during_the_last_micro_batch_alone() -> None:
    batch = BatchPlan(micro=4, workers=9, accumulation=4)
    stage = replace(STAGE, precision="float32")
    found = network_of(stage, SLOW, batch, level=1, parameters=WEIGHTS, nodes=9, step_seconds=STEP)
    assert found.seconds - found.exposed_seconds == pytest.approx(STEP * 2 / 3 / 4)


def test_on_a_fast_network_the_gathered_weights_are_what_is_left() -> None:
    fast = replace(SLOW, network_gigabytes=1e3)
    for level in (1, 2):
        assert of(level, kind=fast).exposed_seconds == pytest.approx(SENT / 1e3)
    assert of(3, kind=fast).exposed_seconds == 0.0


def test_muons_sums_are_not_hidden() -> None:
    fast = replace(SLOW, network_gigabytes=1e3)
    matrices = 12 * 12 * 768**2
    more = of(3, kind=fast, name="muon").exposed_seconds
    assert more == pytest.approx(8 / 9 * 8 * matrices / 1e12)


def test_cpus_hide_nothing() -> None:
    found = of(1, kind=NODE_KINDS["laptop"])
    assert found.exposed_seconds == found.seconds > 0


@pytest.mark.parametrize("gigabytes", ["1", "50"])
def test_a_network_that_slows_a_stage_is_named(
    called: Callable[..., Said], tmp_path: Path, gigabytes: str
) -> None:
    argv = ("--recipe", "vit-b16-imagenet1k", "--on", "p4d", "--place.data-root", str(tmp_path))
    nodes = ("--cluster.nodes", "2", "--cluster.network-gigabytes", gigabytes)
    said = called(planning.main, "plan", *argv, *nodes)
    line = "pretrain: the network adds 0.35 s to each step of 0.22 s, which the time above leaves"
    assert (line in said.out) == (gigabytes == "1"), said.out
