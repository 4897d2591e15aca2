import io
from dataclasses import replace

import pytest

from pipelines.packing import progress as packing_progress
from pipelines.packing.progress import PackingProgress, packing_line
from storage.pack.execute import Tally

TALLY = Tally(
    unit="images",
    done=12_000,
    total=50_000,
    found=2_000,
    shards=5,
    total_shards=20,
    found_shards=1,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(packing_progress.time, "monotonic", clock)
    return clock


def test_a_line_says_images_shards_rate_and_eta() -> None:
    line = packing_line(TALLY, replace(TALLY, done=2_000), seconds=10)
    assert line == "12000/50000 images  5/20 shards  1000 img/s  ETA 0:38"


def test_no_rate_is_made_up_at_the_start() -> None:
    """What an earlier run did, and what Ray takes to start, is in no rate."""
    line = "12000/50000 images  5/20 shards"
    assert packing_line(TALLY, TALLY, seconds=0) == line
    assert packing_line(TALLY, replace(TALLY, done=2_000), seconds=0.1) == line


def test_the_rate_counts_from_the_first_shard_of_this_run(clock: Clock) -> None:
    log = io.StringIO()
    progress = PackingProgress("pack", stream=log)
    progress(replace(TALLY, done=2_000, shards=1))
    clock.now += 60  # Ray starts
    progress(replace(TALLY, done=4_000, shards=2))
    clock.now += 10
    progress(replace(TALLY, done=8_000, shards=4))
    assert log.getvalue().splitlines()[-1] == (
        "pack: 8000/50000 images  4/20 shards  400 img/s  ETA 1:45"
    )


def test_a_log_gets_plain_lines_at_a_sane_rate(clock: Clock) -> None:
    log = io.StringIO()
    progress = PackingProgress("pack", stream=log)
    for shards in range(1, 21):
        progress(replace(TALLY, shards=shards, done=2500 * shards))
        clock.now += 2
    first, *lines = log.getvalue().splitlines()
    assert first == "pack: 1 of 20 shards were done by an earlier run"
    assert 3 <= len(lines) <= 5  # 40 seconds
    assert "\x1b" not in log.getvalue()


def test_a_log_hears_nothing_of_what_is_done_at_once(clock: Clock) -> None:
    log = io.StringIO()
    progress = PackingProgress("pack", stream=log)
    progress(replace(TALLY, found=0, found_shards=0, done=0, shards=0))
    clock.now += 1
    progress(replace(TALLY, found=0, found_shards=0, done=50_000, shards=20))
    assert log.getvalue() == ""


def test_a_terminal_gets_one_line_rewritten(clock: Clock) -> None:
    terminal = Terminal()
    with PackingProgress("pack", stream=terminal) as progress:
        for shards in range(1, 21):
            clock.now += 1
            progress(replace(TALLY, shards=shards, found_shards=0))
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().endswith("\n")
