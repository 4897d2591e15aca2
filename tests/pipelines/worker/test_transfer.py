"""Batches reach the device in order, one ahead. The thread runs here as it does beside a GPU."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipelines.worker.transfer import DeviceBatches, Wait

CPU = torch.device("cpu")
SLOW = 0.2


def numbered(count: int, taken: list[int]) -> Iterator[dict[str, np.ndarray]]:
    """Batches of their number; `taken` notes which were asked for."""
    for i in range(count):
        taken.append(i)
        image = np.full((2, 4, 4, 3), i, dtype=np.uint8)
        image.flags.writeable = False  # as Ray's
        yield {"image": image, "label": np.full(2, i), "index": np.arange(2) + i}


@pytest.mark.parametrize("ahead", [False, True])
def test_every_batch_comes_once_and_in_order(ahead: bool) -> None:
    taken: list[int] = []
    found = [batch for batch, _ in DeviceBatches(numbered(5, taken), CPU, ahead=ahead)]
    assert [int(batch["image"][0, 0, 0, 0]) for batch in found] == [0, 1, 2, 3, 4]
    assert [batch["index"].tolist() for batch in found] == [[i, i + 1] for i in range(5)]
    assert found[0]["image"].dtype == torch.uint8
    assert taken == [0, 1, 2, 3, 4]


def test_the_next_batch_is_fetched_during_the_step_and_no_more() -> None:
    taken: list[int] = []
    batches = DeviceBatches(numbered(9, taken), CPU, ahead=True)
    next(batches)
    end = time.monotonic() + 10
    while len(taken) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(SLOW)
    assert taken == [0, 1]


def test_only_what_the_stream_is_late_counts_as_waiting() -> None:
    def slow() -> Iterator[dict[str, np.ndarray]]:
        for i in range(3):
            time.sleep(SLOW)
            yield {"label": np.full(2, i)}

    batches = DeviceBatches(slow(), CPU, ahead=True)
    waits = []
    for _, wait in batches:
        waits.append(wait.seconds())
        time.sleep(3 * SLOW)  # a step, longer than a fetch
    assert waits[0] > SLOW / 2
    assert max(waits[1:]) < SLOW / 2


@pytest.mark.parametrize("ahead", [False, True])
def test_what_the_stream_raises_reaches_the_loop(ahead: bool) -> None:
    def broken() -> Iterator[dict[str, np.ndarray]]:
        yield {"label": np.zeros(2)}
        raise ConnectionError("the node is gone")

    batches = DeviceBatches(broken(), CPU, ahead=ahead)
    next(batches)
    with pytest.raises(ConnectionError, match="the node is gone"):
        next(batches)


def test_an_unfinished_stream_leaves_no_thread() -> None:
    before = threading.active_count()
    next(DeviceBatches(numbered(9, []), CPU, ahead=True))
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before


class Event:
    """Stands for a CUDA event at a time in milliseconds."""

    def __init__(self, at: float) -> None:
        self.at = at

    def synchronize(self) -> None: ...

    def elapsed_time(self, later: "Event") -> float:
        return later.at - self.at


@pytest.mark.parametrize(("asked", "arrived", "seconds"), [(100, 350, 0.25), (350, 100, 0.0)])
def test_on_a_gpu_the_wait_is_the_devices(asked: float, arrived: float, seconds: float) -> None:
    """A batch that arrives while the GPU works on the step before was not waited for."""
    events = {"asked": Event(asked), "arrived": Event(arrived)}
    assert Wait(host_seconds=9.0, **events).seconds() == seconds  # type: ignore[arg-type]
