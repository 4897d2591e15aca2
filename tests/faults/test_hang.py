"""A worker that stands still is named and replaced; training ends as if nothing had been."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.worker.watchdog import Stall, Watchdog, explain, stall_lines
from tests.faults.support.injury import freeze_trainer
from tests.faults.test_chaos import stage_of


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_frozen_worker_is_named_and_replaced(
    ray_session: str, place: list[str], tmp_path: Path
) -> None:
    stage = stage_of("frozen", 600, place, ray_session, tmp_path)
    stage.start()
    stage.wait("a state", lambda: stage.saved() > 0)
    assert freeze_trainer(stage, random.Random(0))
    stage.finish()
    log = stage.log.read_text()
    assert stage.ended == 0, log[-3000:]
    assert "did not even say so: look there first" in log
    assert log.count("resumed after step") == 1
    assert list((stage.folder / "stalled").iterdir())  # with the stacks


def stall(rank: int, step: int, doing: str = "train", world_size: int = 3) -> Stall:
    return Stall(
        rank=rank, world_size=world_size, step=step, doing=doing, seconds=60.0, stacks="File ..."
    )


def test_the_rank_that_is_behind_is_named() -> None:
    lines = explain([stall(0, 8), stall(1, 7, "fetch"), stall(2, 8)])
    assert lines == ["rank 1 made no progress for 60 s in step 7 (fetch)"]


def test_a_rank_that_says_nothing_is_named() -> None:
    lines = explain([stall(0, 8), stall(2, 8)])
    assert lines[-1] == "rank 1 did not even say so: look there first"


def test_a_worker_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    dog = Watchdog(str(tmp_path), rank=0, world_size=1, seconds=0.4)
    for step in range(8):
        dog.beat(step, "train")
        time.sleep(0.1)
    dog.end()
    time.sleep(0.6)  # longer than it may be silent
    assert stall_lines(str(tmp_path)) == []


def test_a_process_that_hangs_ends_and_leaves_its_stacks(tmp_path: Path) -> None:
    program = (
        "import time; from pipelines.worker.watchdog import Watchdog\n"
        f"dog = Watchdog({str(tmp_path)!r}, rank=1, world_size=2, seconds=1)\n"
        "dog.beat(5, 'fetch')\n"
        "def a_call_that_never_returns(): time.sleep(600)\n"
        "a_call_that_never_returns()\n"
    )
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], timeout=60)
    assert ended.returncode == 75
    assert time.monotonic() - began < 40
    (note,) = (tmp_path / "stalled").glob("rank-00001.json")
    assert "a_call_that_never_returns" in note.read_text()
    first, second = stall_lines(str(tmp_path))
    assert first.startswith("rank 1 made no progress for 1 s in step 5 (fetch)")
    assert second == "rank 0 did not even say so: look there first"
    assert stall_lines(str(tmp_path)) == []  # told once
