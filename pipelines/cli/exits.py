"""How an entry script ends: its exit code, and one line on stderr for what went wrong.

0  done, or was done already
1  the world failed (storage, cluster, tracking) after retries; or a fault of this code, whose
   traceback is in a file that the line names
2  a mistake of the user's: one line on stderr, nothing was trained
130  stopped by Ctrl-C or SIGTERM (`ray job stop`)
141  whoever read the output went away (`... | head`): nothing is said
"""

import atexit
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from pipelines.cli.redaction import scrub
from pipelines.recipes.errors import MISTAKES
from storage.errors import StorageError, Unavailable


class Failed(Exception):
    """The work ended without its result; the message is one line."""


@contextmanager
def errors_as_exits(*, stopped: str = "stopped") -> Iterator[None]:
    """Turn what the block raises into an exit; `stopped` is said at Ctrl-C.

    Raises:
        SystemExit: with the code above.
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
        if not leave_closed_output():  # of a connection, not of our output
            _die(1, _fault(error))
        sys.exit(141)
    except Exception as error:
        _die(1, _fault(error))


def stop_at_sigterm() -> None:
    """Let SIGTERM (`ray job stop`) end this process as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def unwrapped(error: object) -> str:
    """A message without its line breaks."""
    return " ".join(str(error).split())


def leave_closed_output() -> bool:
    """Send what is still printed nowhere, if nobody reads stdout any more; return whether so."""
    try:
        file = sys.stdout.fileno()
        poll = select.poll()
        poll.register(file, 0)
        if not any(event & select.POLLERR for _, event in poll.poll(0)):
            return False
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file)  # what Python flushes at its end goes there, too
        os.close(nowhere)
    except (OSError, ValueError):  # no stdout, or one without a file, as in tests
        return False
    return True


def _fault(error: Exception) -> str:
    """The line for an error that nobody foresaw; its traceback goes into a file."""
    text = "".join(traceback.format_exception(error))
    what = f"{type(error).__name__}: {unwrapped(error)}"[:300]
    try:
        file, path = tempfile.mkstemp(prefix="vit-on-ray-error-", suffix=".log")
        with open(file, "w", encoding="utf-8", errors="replace") as log:
            log.write("\n".join(scrub(line, keep_spaces=True) for line in text.splitlines()) + "\n")
    except OSError:  # a full disk: the terminal is what is left
        return f"{text}error: {what} - not foreseen, please report it"
    return f"error: {scrub(what)} - not foreseen; please report it, the traceback is in {path}"


def _die(code: int, text: str) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(code)
