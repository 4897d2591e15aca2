"""A watchdog that dies says so, and one that cannot leave its note still ends the process."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipelines.worker import watchdog
from pipelines.worker.watchdog import EXIT_CODE, Watchdog, stall_lines


@pytest.mark.parametrize("error", [ValueError, MemoryError, SystemExit])
def test_a_watchdog_that_dies_is_told_to_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def stop_watching(self: Watchdog) -> None:
        raise error("unexpected")

    monkeypatch.setattr(Watchdog, "_wait_for_silence", stop_watching)
    dog = Watchdog(str(tmp_path), rank=0, world_size=1, seconds=60)
    deadline = time.monotonic() + 10
    while dog._died is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="the watchdog's thread died") as raised:
        dog.beat(1, "train")
    assert type(raised.value.__cause__) is error


@pytest.mark.parametrize(
    "fault",
    [
        "watchdog.open_store = lambda uri: (_ for _ in ()).throw(ValueError('unexpected'))",
        "watchdog._stacks = lambda: (_ for _ in ()).throw(MemoryError())",
        "threading.Timer = lambda *a: (_ for _ in ()).throw(RuntimeError('no more threads'))",
    ],
)
def test_a_process_that_hangs_ends_whatever_befalls_its_note(tmp_path: Path, fault: str) -> None:
    program = (
        "import threading, time; from pipelines.worker import watchdog\n"
        f"watchdog._FAREWELL_SECONDS = 0.2\n{fault}\n"
        f"watchdog.Watchdog({str(tmp_path)!r}, rank=0, world_size=1, seconds=0.2)\n"
        "time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=50)
    assert ended.returncode == EXIT_CODE


def test_stacks_that_find_no_disk_are_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert "could not be written to this machine's disk: [Errno 2]" in watchdog._stacks()


def test_in_one_step_the_rank_that_others_wait_for_is_named(tmp_path: Path) -> None:
    program = (
        "import sys, time, torch; from pipelines.worker.watchdog import Watchdog\n"
        "rank = int(sys.argv[1])\n"
        f"meeting = dict(init_method='file://{tmp_path}/meeting', rank=rank, world_size=2)\n"
        "torch.distributed.init_process_group('gloo', **meeting)\n"
        f"dog = Watchdog({str(tmp_path)!r}, rank=rank, world_size=2, seconds=1)\n"
        "torch.distributed.all_reduce(torch.ones(3))\n"
        "dog.beat(7, 'train')\n"
        "if rank: time.sleep(60)\n"
        "torch.distributed.barrier()\n"
    )
    ranks = [subprocess.Popen([sys.executable, "-c", program, str(rank)]) for rank in (0, 1)]
    assert [rank.wait(50) for rank in ranks] == [EXIT_CODE, EXIT_CODE]
    lines = stall_lines(str(tmp_path))
    assert [line.split(" for ")[0] for line in lines[:2]] == [
        f"rank {rank} made no progress" for rank in (0, 1)
    ]
    assert lines[2:] == [
        "rank 1 called 1 collective operations (0 known to have begun) and last gloo:all_reduce,"
        " others 2 (0): look there first"
    ]


def test_what_is_done_for_the_first_time_may_take_longer(tmp_path: Path) -> None:
    program = (
        "import time; from pipelines.worker.watchdog import Watchdog\n"
        f"dog = Watchdog({str(tmp_path)!r}, rank=0, world_size=1, seconds=0.5, first_seconds=30)\n"
        "dog.beat(0, 'train'); time.sleep(2); print('compiled', flush=True)\n"
        "dog.beat(1, 'train'); time.sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=50, capture_output=True)
    assert ended.stdout == b"compiled\n"
    assert ended.returncode == EXIT_CODE
    assert stall_lines(str(tmp_path))[0].endswith(" s in step 1 (train)")


def test_a_driver_that_hangs_under_the_flight_recorder_ends_the_process(tmp_path: Path) -> None:
    """Torch asks it while no other thread of Python runs."""
    program = (
        "import ctypes, time; from pipelines.worker import watchdog\n"
        "watchdog._FAREWELL_SECONDS = 0.5\n"
        "watchdog.collectives = lambda: ctypes.PyDLL(None).sleep(600)\n"
        f"watchdog.Watchdog({str(tmp_path)!r}, rank=0, world_size=1, seconds=0.2)\n"
        "time.sleep(600)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=50, capture_output=True)
    assert ended.returncode == 1  # by faulthandler
    assert stall_lines(str(tmp_path))[0].startswith("rank 0 made no progress")


def test_a_note_that_was_told_already_does_not_come_back(tmp_path: Path) -> None:
    told = tmp_path / "stalled" / "rank-00000.json"
    program = (
        "import pathlib, time; from pipelines.worker import watchdog\n"
        "watchdog._FAREWELL_SECONDS = 1\n"
        f"watchdog.collectives = lambda: pathlib.Path({str(told)!r}).unlink()\n"
        f"watchdog.Watchdog({str(tmp_path)!r}, rank=0, world_size=1, seconds=0.2)\n"
        "time.sleep(600)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=50)
    assert ended.returncode == EXIT_CODE
    assert list(told.parent.iterdir()) == []
