"""Every ZeRO level gives plain torch's losses; its resume state continues at any other level."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from deepspeed.utils.config import get_timers_config

from cluster.batching import plan_batch
from cluster.errors import BadPlace
from cluster.settings import Zero
from cluster.zero import zero_config
from storage.tensors import load_tensors
from tests.cluster.support import zero_worker
from tests.cluster.support.groups import run_group
from tests.cluster.support.zero_worker import CASES, TRAIN, plain_torch, read_state

pytestmark = pytest.mark.timeout(900)  # the groups of `trained`: 64 s on two free cores
WORLDS = (2, 1)
NAMES = [f"{precision}-{level}" for precision, level in CASES]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports and final states of 2 and then 1 worker, at every level, unbroken and continued."""
    folder = tmp_path_factory.mktemp("zero")
    for world in WORLDS:
        run_group(zero_worker.main, world, folder, seconds=600)
    return folder


def losses(folder: Path, world: int) -> dict[str, list[float]]:
    return json.loads((folder / f"report-w{world}.json").read_text())


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", NAMES)
def test_losses_equal_plain_torch(trained: Path, name: str, world: int) -> None:
    expected, _ = plain_torch()
    tolerance = 1e-5 if name.startswith("float32") else 2e-3
    assert losses(trained, world)[name] == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("float32")])
def test_final_weights_and_average_equal_plain_torch(trained: Path, name: str, world: int) -> None:
    _, expected = plain_torch()
    state = read_state(trained / f"{name}-w{world}")
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("saved_at", [0, 1, 2, 3])
def test_state_saved_by_two_workers_continues_at_any_level(
    trained: Path, saved_at: int, level: int, world: int
) -> None:
    unbroken = read_state(trained / f"float32-{saved_at}-w2")
    resumed = read_state(trained / f"float32-{saved_at}-to-{level}-w{world}")
    assert resumed.keys() == unbroken.keys()
    for key, value in unbroken.items():
        torch.testing.assert_close(resumed[key], value, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_best_weights_of_two_workers_are_committed_at_any_level(
    trained: Path, name: str, world: int
) -> None:
    """After more steps than are in them, bit for bit, by these workers and by those that resume."""
    precision, _, level = name.partition("-")
    others = {of: f"{precision}-{of}-to-{level}-w{world}" for p, of in CASES if p == precision}
    committed = {f"{precision}-{of}-half": end for of, end in others.items()}
    committed[f"{name}-w{world}"] = f"{name}-w{world}"
    for trained_by, ended_by in committed.items():
        best = read_state(trained / f"{trained_by}-best")
        found = load_tensors(trained / f"{ended_by}-committed.safetensors", ended_by)
        assert {key.partition("/")[0] for key in found} == {"weights", "average"}
        last = read_state(trained / ended_by)
        for key, value in found.items():
            assert torch.equal(value, best[key]), (trained_by, key)
            assert not torch.equal(value, last[key]), (trained_by, key)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", NAMES)
def test_masters_and_average_start_from_the_float32_weights_that_were_given(
    trained: Path, name: str, world: int
) -> None:
    model, _ = zero_worker.build()
    start = read_state(trained / f"{name}-w{world}-start")
    for parameter, given in model.named_parameters():
        assert torch.equal(start[f"weights/{parameter}"], given), parameter
        assert torch.equal(start[f"average/{parameter}"], given), parameter


@pytest.mark.parametrize("level", [1, 2, 3])
def test_bfloat16_resumes_from_the_float32_master_weights(trained: Path, level: int) -> None:
    unbroken = read_state(trained / f"bfloat16-{level}-w2")
    resumed = read_state(trained / f"bfloat16-{level}-to-{level}-w2")
    for key, value in unbroken.items():
        assert torch.equal(resumed[key], value), key


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("part", TRAIN)
@pytest.mark.parametrize("name", NAMES)
def test_losses_of_a_network_trained_in_part_equal_plain_torch(
    trained: Path, name: str, part: str, world: int
) -> None:
    expected, _ = plain_torch(part)
    assert expected[-1] < expected[0] - 0.1  # of one batch
    tolerance = 1e-5 if name.startswith("float32") else 1e-2
    assert losses(trained, world)[f"{part}-{name}"] == pytest.approx(expected, rel=tolerance)


PARTLY_ENDS = ("w2", "w1", "resumed")
"""Two workers; one; and two that one went on for."""


@pytest.mark.parametrize("end", PARTLY_ENDS)
@pytest.mark.parametrize("part", TRAIN)
@pytest.mark.parametrize("name", NAMES)
def test_only_the_trained_part_has_states_and_changes(
    trained: Path, name: str, part: str, end: str
) -> None:
    """The rest is in the state and the commit once, bit for bit as it was given."""
    model, _ = zero_worker.build(part)
    given = dict(model.named_parameters())
    own = {key for key, parameter in given.items() if parameter.requires_grad}
    assert 0 < len(own) < len(given)
    state = read_state(trained / f"{part}-{name}-{end}")
    kinds = ("exp_avg", "exp_avg_sq", "average", "best_weights", "best_average")
    states = {f"{kind}/{key}" for kind in kinds for key in own}
    assert state.keys() == states | {f"weights/{key}" for key in given}
    committed = load_tensors(trained / f"{part}-{name}-{end}-committed.safetensors", end)
    assert committed.keys() == {f"{kind}/{key}" for kind in ("weights", "average") for key in given}
    for key, value in given.items():
        same = key not in own
        assert torch.equal(state[f"weights/{key}"], value) == same, key
        assert torch.equal(committed[f"weights/{key}"], value) == same, key
        assert torch.equal(committed[f"average/{key}"], value) == same, key


@pytest.mark.parametrize("end", PARTLY_ENDS)
@pytest.mark.parametrize("part", TRAIN)
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("float32")])
def test_the_trained_part_equals_plain_torch(trained: Path, name: str, part: str, end: str) -> None:
    _, expected = plain_torch(part)
    state = read_state(trained / f"{part}-{name}-{end}")
    for key, value in expected.items():
        if key in state:  # there is no average of what is not trained
            torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("part", TRAIN)
@pytest.mark.parametrize("name", NAMES)
def test_one_worker_holds_what_two_saved_bit_for_bit(trained: Path, name: str, part: str) -> None:
    saved = read_state(trained / f"{part}-{name}-half")
    found = read_state(trained / f"{part}-{name}-resumed-start")
    assert {key for key in saved if not key.startswith("best_")} == set(found)
    for key, value in found.items():
        assert torch.equal(value, saved[key]), key


def config(level: Literal[0, 1, 2, 3], *, workers: int = 2, **more: Any) -> dict[str, Any]:
    plan = plan_batch(8, workers=workers, max_micro_batch=4)
    given: dict[str, Any] = {"precision": "float32", "clip_norm": None, **more}
    return zero_config(Zero(level=level), plan, **given)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_no_timer_of_deepspeeds_waits_for_the_device(level: Literal[0, 1, 2, 3]) -> None:
    parsed = get_timers_config(config(level))
    assert not parsed.enabled


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize(
    ("gpu", "workers", "overlaps"), [(True, 2, True), (True, 1, False), (False, 2, False)]
)
def test_gradients_travel_beside_the_backward_pass_between_gpus(
    level: Literal[1, 2, 3], gpu: bool, workers: int, overlaps: bool
) -> None:
    sharding = config(level, gpu=gpu, workers=workers)["zero_optimization"]
    assert sharding["overlap_comm"] == overlaps


def test_level_3_alone_gathers_a_block_at_once() -> None:
    leaves = ("vit.blocks.Block",)
    asked = [config(level, leaf_classes=leaves)["zero_optimization"] for level in (1, 2, 3)]
    assert [one.get("leaf_module") for one in asked] == [None, None, {"classes": [*leaves]}]


def test_bfloat16_at_level_0_is_refused() -> None:
    plan = plan_batch(8, workers=2, max_micro_batch=4)
    with pytest.raises(BadPlace, match=r"needs zero.level 1, 2 or 3, found 0"):
        zero_config(Zero(level=0), plan, precision="bfloat16", clip_norm=None)
