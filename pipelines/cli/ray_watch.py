"""Watch Ray and stop the driver with one clear line when Ray is gone.

Left alone, Ray ends the driver a minute after its own death, with only a C++ stack trace. Watched
are the processes of a local Ray, or the port of a remote head.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import psutil

from cluster.errors import BadPlace
from pipelines.cli.exits import Failed
from pipelines.cli.ray_address import check_reachable

LOOK_SECONDS = 0.5
HEAD_SECONDS = 5.0  # between two checks of a remote head
SILENT_LOOKS = 6  # in a row; a head that restarts (Redis) is back earlier
CLOSING_SECONDS = 20.0  # for reporting the end to MLflow; then the process exits
_PARTS = {"gcs_server": "GCS", "raylet": "raylet"}
_SIGNAL = signal.SIGUSR2


@contextlib.contextmanager
def watched(address: str | None) -> Iterator[None]:
    """Raise Failed in the block when the local Ray (or the remote head) is gone.

    Args:
        address: HOST:PORT of a remote head; None for a Ray that this process started.

    Raises:
        Failed: it is gone. Only on the main thread: a signal cannot interrupt another one, so there
            nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch(address)
    before = signal.signal(_SIGNAL, watch.interrupt)
    thread = threading.Thread(target=watch.run, name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    except Exception as error:  # Ray wraps an error of a signal handler into a SystemError
        if watch.reason:
            raise Failed(watch.line()) from error
        raise
    finally:
        watch.ended.set()
        thread.join()
        signal.signal(_SIGNAL, before)


class _Watch:
    """A loop on a thread that checks Ray until `ended` is set."""

    def __init__(self, address: str | None) -> None:
        self.address, self.ended = address, threading.Event()
        self._parts = _parts_of_own_ray() if address is None else {}
        self.reason = ""
        """What is gone, in words; empty while all is well."""

    def run(self) -> None:
        """Check repeatedly; interrupt the main thread once something is gone."""
        try:
            self._look()
        except BaseException as error:  # from /proc or the network; a thread's error is not seen
            why = f"{type(error).__name__}: {error}"
            print(f"warning: Ray is not watched any more ({why})", file=sys.stderr, flush=True)

    def _look(self) -> None:
        silent = 0
        while not self.ended.wait(LOOK_SECONDS if self.address is None else HEAD_SECONDS):
            if self.address is None:
                self.reason = _dead(self._parts)
            else:
                silent = 0 if _answers(self.address) else silent + 1
                if silent >= SILENT_LOOKS:
                    gone = silent * HEAD_SECONDS
                    self.reason = f"the Ray head at {self.address} is gone ({gone:.0f} s)"
            if self.reason:
                signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
                if not self.ended.wait(CLOSING_SECONDS):
                    self._give_up()
                return

    def interrupt(self, signum: int, frame: FrameType | None) -> NoReturn:
        """Handle the signal on the main thread."""
        raise Failed(self.line())

    def line(self) -> str:
        """Return what happened and what to do, in one line."""
        return f"{self.reason} - run the same command again to continue from the last save"

    def _give_up(self) -> NoReturn:
        """End the process: code that waits for a dead cluster may wait forever."""
        print(f"error: {self.line()}", file=sys.stderr, flush=True)
        os._exit(1)


def _parts_of_own_ray() -> dict[str, psutil.Process]:
    """Find GCS and raylet among this process's children."""
    children = psutil.Process().children(recursive=True)
    named = {child: _name(child) for child in children}
    return {_PARTS[name]: child for child, name in named.items() if name in _PARTS}


def _name(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return process.name()
    return ""


def _dead(parts: dict[str, psutil.Process]) -> str:
    """Return what died, in words; empty if everything is alive."""
    for part, process in parts.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                continue
        return f"Ray's {part} on this machine died (process {process.pid})"
    return ""


def _answers(address: str) -> bool:
    try:
        check_reachable(address)
    except BadPlace:
        return False
    return True
