"""How an entry script ends: its exit code, and one line on stderr for what went wrong.

0  done, or was done already
1  the world failed (storage, cluster, tracking) after retries
2  a mistake of the user's: one line on stderr, nothing was trained
130  stopped by Ctrl-C or SIGTERM (`ray job stop`)
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from storage.errors import StorageError, Unavailable


class Failed(Exception):
    """The work ended without its result; the message is one line."""


@contextmanager
def errors_as_exits(*, stopped: str = "stopped") -> Iterator[None]:
    """Turn what the block raises into an exit; `stopped` is said at Ctrl-C.

    Raises:
        SystemExit: with the code above.
    """
    try:
        yield
    except (Unavailable, Failed) as error:
        _die(1, f"error: {unwrapped(error)}")
    except (ValueError, StorageError) as error:
        _die(2, f"error: {unwrapped(error)}")
    except KeyboardInterrupt:
        _die(130, stopped)


def unwrapped(error: object) -> str:
    """A message without its line breaks."""
    return " ".join(str(error).split())


def _die(code: int, text: str) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(code)
