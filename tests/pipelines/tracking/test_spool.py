"""The queue on disk: order, bounds, and what a killed process leaves behind."""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.tracking.spool import CHUNK_BYTES, Record, Spool
from pipelines.tracking.spool_file import SpoolInUse, spool_folder


class Receiver:
    """Takes records, or is away."""

    def __init__(self, *, away: bool = False) -> None:
        self.away, self.got, self.largest = away, [], 0

    def __call__(self, records: list[Record]) -> None:
        if self.away:
            raise ConnectionError("away")
        self.largest = max(self.largest, len(json.dumps(records)))
        self.got += [record["i"] for record in records]


def spool(path: Path, receiver: Callable[[list[Record]], None]) -> Spool:
    made = Spool(path, receiver)
    made.start()
    return made


def wait_until(fact: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_records_arrive_in_order_and_the_file_goes(tmp_path: Path) -> None:
    receiver = Receiver()
    queue = spool(tmp_path / "a.jsonl", receiver)
    for i in range(1000):
        queue.put({"i": i})
    assert queue.close(20) == 0
    assert receiver.got == list(range(1000))
    assert not (tmp_path / "a.jsonl").exists()


def test_what_waits_is_sent_in_bounded_pieces_once_the_receiver_is_back(tmp_path: Path) -> None:
    receiver = Receiver(away=True)
    queue = spool(tmp_path / "a.jsonl", receiver)
    for i in range(3000):
        queue.put({"i": i, "text": "x" * 1000})
    wait_until(lambda: queue.trouble is not None)
    assert queue.left == 3000
    receiver.away = False
    wait_until(lambda: queue.left == 0)
    assert receiver.got == list(range(3000))
    assert receiver.largest < 2 * CHUNK_BYTES
    wait_until(lambda: queue.trouble is None)
    assert (tmp_path / "a.jsonl").stat().st_size == 0
    assert queue.close(0) == 0


def test_a_record_larger_than_a_piece_passes(tmp_path: Path) -> None:
    receiver = Receiver()
    queue = spool(tmp_path / "a.jsonl", receiver)
    queue.put({"i": 1, "text": "x" * (3 * CHUNK_BYTES)})
    queue.put({"i": 2})
    assert queue.close(20) == 0
    assert receiver.got == [1, 2]


def test_nobody_waits_for_a_receiver_that_hangs(tmp_path: Path) -> None:
    forever = threading.Event()

    def hang(records: list[Record]) -> None:
        forever.wait()

    queue = spool(tmp_path / "a.jsonl", hang)
    seconds: list[float] = []
    for i in range(200):
        began = time.perf_counter()
        queue.put({"i": i, "metrics": [["train/loss", 0.5, 1, i]] * 20})
        seconds.append(time.perf_counter() - began)
    began = time.monotonic()
    assert queue.close(1.0) == 200
    assert time.monotonic() - began < 2
    forever.set()
    assert statistics.median(seconds) < 0.005


def test_the_next_process_delivers_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    code = (
        "import os, signal, sys, pathlib; from pipelines.tracking.spool import Spool\n"
        "def send(records): raise ConnectionError\n"
        "queue = Spool(pathlib.Path(sys.argv[1]), send); queue.start()\n"
        "for i in range(5): queue.put({'i': i})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], timeout=60)
    with path.open("ab") as file:
        file.write(b'{"i": 5')  # killed within a line
    receiver = Receiver()
    queue = Spool(path, receiver)
    assert (queue.left, queue.inherited) == (5, 5)
    assert [record["i"] for record in queue.records()] == [0, 1, 2, 3, 4]
    queue.start()
    queue.put({"i": 6})
    assert queue.close(20) == 0
    assert receiver.got == [0, 1, 2, 3, 4, 6]


def test_a_spoiled_line_is_counted_and_the_others_arrive(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"i": 1}\n\x00\xff\n7\n{"i": 2}\n')
    receiver = Receiver()
    queue = spool(path, receiver)
    assert queue.close(20) == 0
    assert (receiver.got, queue.lost) == ([1, 2], 2)


def test_what_is_kept_at_the_end_is_sent_again_as_it_was(tmp_path: Path) -> None:
    away = Receiver(away=True)
    queue = spool(tmp_path / "a.jsonl", away)
    for i in range(3):
        queue.put({"i": i})
    assert queue.close(0.1) == 3
    queue.put({"i": 9})  # too late
    assert queue.lost == 1
    back = Receiver()
    assert spool(tmp_path / "a.jsonl", back).close(20) == 0
    assert (away.got, back.got) == ([], [0, 1, 2])


def test_one_process_a_spool(tmp_path: Path) -> None:
    first = Spool(tmp_path / "a.jsonl", Receiver())
    with pytest.raises(SpoolInUse, match=r"a\.jsonl is written by another process"):
        Spool(tmp_path / "a.jsonl", Receiver())
    first.close(0)
    Spool(tmp_path / "a.jsonl", Receiver()).close(0)


def test_a_full_disk_loses_records_and_no_more(tmp_path: Path) -> None:
    code = (
        "import resource, sys, pathlib, signal; from pipelines.tracking.spool import Spool\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "def send(records): raise ConnectionError\n"
        "queue = Spool(pathlib.Path(sys.argv[1]), send)\n"
        "for i in range(30): queue.put({'i': i})\n"
        "print(queue.left, queue.lost)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.jsonl")], capture_output=True, text=True
    )
    left, lost = map(int, done.stdout.split())
    assert left == len((tmp_path / "a.jsonl").read_bytes().splitlines()) > 5
    assert left + lost == 30
    receiver = Receiver()
    assert spool(tmp_path / "a.jsonl", receiver).close(20) == 0
    assert receiver.got == list(range(left))


def test_the_folder_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = spool_folder()
    assert folder == tmp_path / "vit-on-ray" / "mlflow"
    assert folder.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert spool_folder().is_relative_to(tmp_path)
