"""A call beside the caller, on a daemon thread: nobody waits for it at the end of a process."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(threading.Thread, Generic[T]):
    """Begins at once; `result` gives what the call returned, or raises what it raised."""

    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__(name="background", daemon=True)
        self._call = call
        self._returned: T
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Make the call; keep what comes of it."""
        try:
            self._returned = self._call()
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """Wait for the end."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._returned
