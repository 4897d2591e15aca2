"""A call beside the caller, on a daemon thread: nobody waits for it at the end of a process."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(threading.Thread, Generic[T]):
    """Begins at once; `result` gives what the call returned, or raises what it raised."""

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__(name="background", daemon=True)
        self._call = call
        self.future: Future[T] = Future()
        """For `concurrent.futures.wait`."""
        self.start()

    def run(self) -> None:
        """Make the call; keep what comes of it."""
        try:
            self.future.set_result(self._call())
        except BaseException as error:
            self.future.set_exception(error)

    def result(self) -> T:
        """Wait for the end."""
        self.join()
        return self.future.result()
