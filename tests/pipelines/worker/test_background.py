"""What happens beside the caller: streams begin at once, and failures reach who asks."""

import threading
from collections.abc import Iterator

import pytest

from pipelines.worker.feed import begun


def test_a_stream_is_opened_and_asked_before_its_reader_asks() -> None:
    asked = threading.Event()

    def stream() -> Iterator[int]:
        asked.set()
        yield from range(3)

    items = begun(stream)
    assert asked.wait(10)
    assert list(items) == [0, 1, 2]


def test_what_opening_raises_is_raised_to_the_reader() -> None:
    def stream() -> Iterator[int]:
        raise OSError("no such shard")

    items = begun(stream)
    with pytest.raises(OSError, match="no such shard"):
        next(items)


def test_nobody_waits_at_the_end_of_a_process_for_a_stream_that_hangs() -> None:
    begun(lambda: iter(threading.Event().wait, True))
    (thread,) = (one for one in threading.enumerate() if one.name == "background")
    assert thread.daemon
