"""How an entry script ends: its exit code, and one line on stderr for what went wrong.

0    finished, or was finished already
1    storage, cluster or tracking failed after retries; or a bug in this code, whose traceback is in
     a file that the error line names
2    a configuration error: one line on stderr, nothing was trained
130  stopped by Ctrl-C or SIGTERM (`ray job stop`)
141  the reader of stdout closed it (`... | head`): nothing is printed
"""

import atexit
import os
import select
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from pipelines.cli.redaction import scrub
from pipelines.recipes.errors import MISTAKES
from storage.errors import StorageError, Unavailable


class Failed(Exception):
    """The work ended without a result. The message is one line."""


@contextmanager
def errors_as_exits(*, stopped: str = "stopped") -> Iterator[None]:
    """Turn exceptions of the block into an exit code and one line on stderr.

    Args:
        stopped: the line to print at Ctrl-C.

    Raises:
        SystemExit: with one of the codes listed at the top of this file.
    """
    atexit.register(leave_closed_output)
    try:
        yield
        sys.stdout.flush()
    except (Unavailable, Failed) as error:
        _die(1, f"error: {unwrapped(error)}")
    except (*MISTAKES, StorageError) as error:
        _die(2, f"error: {unwrapped(error)}")
    except KeyboardInterrupt:
        _die(130, stopped)
    except BrokenPipeError as error:
        if not leave_closed_output():  # a network connection broke, not stdout
            _die(1, _fault(error))
        sys.exit(141)
    except Exception as error:
        _die(1, _fault(error))


def stop_at_sigterm() -> None:
    """Make SIGTERM (`ray job stop`) end this process like Ctrl-C.

    Only the main thread can: on another one, where a program may call us, nothing changes.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


@contextmanager
def signals_kept() -> Iterator[None]:
    """Give the caller's handler of SIGTERM back when the block ends."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def unwrapped(error: object) -> str:
    """Return a message as one line."""
    return " ".join(str(error).split())


def leave_closed_output() -> bool:
    """If the reader of stdout is gone, discard further output. Return whether it is gone."""
    try:
        file = sys.stdout.fileno()
        poll = select.poll()
        poll.register(file, 0)
        if not any(event & select.POLLERR for _, event in poll.poll(0)):
            return False
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file)  # also discards what Python flushes at exit
        os.close(nowhere)
    except (OSError, ValueError):  # no stdout, or one without a file descriptor, as in tests
        return False
    return True


def _fault(error: Exception) -> str:
    """Write the traceback of an unexpected error to a file; return the line that names the file."""
    text = "".join(traceback.format_exception(error))
    what = f"{type(error).__name__}: {unwrapped(error)}"[:300]
    try:
        file, path = tempfile.mkstemp(prefix="vit-on-ray-error-", suffix=".log")
        with open(file, "w", encoding="utf-8", errors="replace") as log:
            log.write("\n".join(scrub(line, keep_spaces=True) for line in text.splitlines()) + "\n")
    except OSError:  # the disk is full: print the traceback instead
        return f"{text}error: {what} - this is a bug, please report it"
    return f"error: {scrub(what)} - this is a bug, please report it with the traceback in {path}"


def _die(code: int, text: str) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(code)
