"""Fifty steps of a small ViT: every ZeRO level, worker count and option gives one loss curve."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.long_worker import CASES, Case, plain_torch
from tests.cluster.test_zero import free_port

WORLDS = (1, 2, 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of every world size, with all cases."""
    folder = tmp_path_factory.mktemp("long")
    for world in WORLDS:
        port = free_port()
        command = [sys.executable, "-W", "ignore", "-m", "tests.cluster.long_worker"]
        workers = [
            subprocess.Popen(
                [*command, str(rank), str(world), str(port), str(folder)],
                env={**os.environ, "PYTHONPATH": os.getcwd()},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        for worker in workers:
            _, stderr = worker.communicate(timeout=900)
            assert worker.returncode == 0, stderr[-3000:]
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
