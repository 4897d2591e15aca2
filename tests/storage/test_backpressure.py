"""When a stream looks for work: often while something runs, seldom while nothing does."""

import time
from contextlib import closing
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.data import DataContext

from storage import backpressure
from storage.ahead import Ahead
from storage.tasks import Block, blocks_in_order

pytestmark = pytest.mark.usefixtures("ray_session")
WORK_SECONDS = 0.2


def numbered(item: int) -> Block:
    return {"item": np.array([item])}


class Work:
    """Takes its time for each block."""

    def __call__(self, block: Block) -> Block:
        time.sleep(WORK_SECONDS)
        return block


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between looks, as they come."""
    found: list[float] = []

    def sleep(seconds: float) -> None:
        found.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(
        backpressure, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
    )
    return found


def test_actors_get_their_next_block_soon(pauses: list[float]) -> None:
    """While they work, enough blocks wait for them, so that nothing is decoded."""
    stream = blocks_in_order(numbered, 200, 0.5, ahead=Ahead(8, each=4))
    work: Any = Work  # Ray's type for classes leaves out their arguments
    outputs: Any = stream.map_batches(work, batch_size=None, concurrency=1, num_cpus=0)
    with closing(iter(outputs.iter_batches(batch_size=None, batch_format="numpy"))) as blocks:
        items = [int(block["item"][0]) for block in islice(blocks, 4)]
        pauses.clear()  # the actor has started
        items += [int(block["item"][0]) for block in islice(blocks, 12)]
    assert items == list(range(16))
    assert len(pauses) > 20
    assert max(pauses) <= 0.05


def test_a_stream_whose_blocks_all_wait_seldom_looks(pauses: list[float]) -> None:
    stream: Any = blocks_in_order(numbered, 200, 0.5, ahead=Ahead(8, each=4))
    with closing(iter(stream.iter_batches(batch_size=None, batch_format="numpy"))) as blocks:
        next(blocks)
        deadline = time.monotonic() + 60
        while max(pauses, default=0) < 0.3:
            assert time.monotonic() < deadline, pauses
            time.sleep(0.1)
        assert sum(1 for _ in blocks) == 199


def test_a_consumer_may_pause_for_longer_than_ray_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends a stream none of whose blocks moved for half an hour, as in a long evaluation."""
    monkeypatch.setattr(DataContext.get_current(), "execution_no_progress_timeout_s", 1)
    stream: Any = blocks_in_order(numbered, 45, 0.5, ahead=Ahead(8, each=4))
    with closing(iter(stream.iter_batches(batch_size=None, batch_format="numpy"))) as blocks:
        next(blocks)
        time.sleep(4)  # 32 blocks wait, and about ten items are not decoded
        assert sum(1 for _ in blocks) == 44
