"""LAMB and Muon look at whole tensors, of which workers hold pieces: plain torch's result."""

import json
from pathlib import Path

import pytest
import torch

from tests.cluster.support import whole_tensors_worker
from tests.cluster.support.groups import run_group
from tests.cluster.support.whole_tensors_worker import CASES, RESUMED
from tests.cluster.support.zero_worker import WHOLE, plain_torch, read_state

pytestmark = pytest.mark.timeout(600)
WORLDS = (3, 1)
"""Three workers cut the tensors into pieces of other sizes than two equal ones."""
NAMES = [f"{precision}-{level}" for precision, level in CASES]
# Muon rounds matrices to bfloat16 (8 bits): another sum of the gradients turns single roundings.
LOSS_ERROR = {"lamb": 1e-5, "muon": 1e-3}
WEIGHT_ERROR = {"lamb": 2e-6, "muon": 1e-3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports and final states of 3 and then 1 worker, which also continues the others' states.

    The cuts of real process groups and of DeepSpeed's own partitions are what is tested.
    """
    folder = tmp_path_factory.mktemp("whole")
    for world in WORLDS:
        run_group(whole_tensors_worker.main, world, folder, seconds=300)
    return folder


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("optimizer", WHOLE)
def test_losses_equal_plain_torch(trained: Path, optimizer: str, name: str, world: int) -> None:
    expected, _ = plain_torch(optimizer)
    assert expected[-1] < expected[0] - 0.1  # of one batch
    report = json.loads((trained / f"report-w{world}.json").read_text())
    tolerance = LOSS_ERROR[optimizer] if name.startswith("float32") else 1e-2
    assert report[f"{optimizer}-{name}"] == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("float32")])
@pytest.mark.parametrize("optimizer", WHOLE)
def test_weights_and_average_equal_plain_torch(
    trained: Path, optimizer: str, name: str, world: int
) -> None:
    _, expected = plain_torch(optimizer)
    state = read_state(trained / f"{optimizer}-{name}-w{world}")
    for key, value in expected.items():
        error = WEIGHT_ERROR[optimizer]
        torch.testing.assert_close(state[key], value, rtol=1e-4, atol=error, msg=key)


@pytest.mark.parametrize(("saved_at", "level"), RESUMED)
@pytest.mark.parametrize("optimizer", WHOLE)
def test_one_worker_continues_what_three_saved(
    trained: Path, optimizer: str, saved_at: int, level: int
) -> None:
    """It starts from the same bits, and ends where the unbroken run of three ends."""
    saved = read_state(trained / f"{optimizer}-{saved_at}-half")
    start = read_state(trained / f"{optimizer}-{saved_at}-to-{level}-start")
    assert {key for key in saved if not key.startswith("best_")} == set(start)
    for key, value in start.items():
        assert torch.equal(value, saved[key]), key
    unbroken = read_state(trained / f"{optimizer}-float32-{saved_at}-w3")
    resumed = read_state(trained / f"{optimizer}-{saved_at}-to-{level}")
    assert resumed.keys() == unbroken.keys()
    for key, value in unbroken.items():
        error = WEIGHT_ERROR[optimizer]
        torch.testing.assert_close(resumed[key], value, rtol=1e-4, atol=error, msg=key)
