"""Fifty steps of a small ViT: every ZeRO level, worker count and option gives one loss curve."""

import json
from pathlib import Path

import pytest

from tests.cluster.support import long_worker
from tests.cluster.support.groups import run_group
from tests.cluster.support.long_worker import CASES, Case, plain_torch

WORLDS = (1, 2, 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of every world size, with all cases."""
    folder = tmp_path_factory.mktemp("long")
    for world in WORLDS:
        run_group(long_worker.main, world, folder, seconds=900)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fifty_steps_are_those_of_plain_torch(trained: Path, case: Case, world: int) -> None:
    expected, _ = plain_torch()
    found = json.loads((trained / f"world-{world}.json").read_text())[case.name]
    exact = case.precision == "float32"
    assert found["losses"] == pytest.approx(expected, rel=1e-4 if exact else 2e-2)
    assert found["average"] < (1e-3 if exact else 5e-2)
    assert expected[-1] < expected[0]
