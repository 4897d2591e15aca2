"""Resume states are written behind the training: a save costs the step a copy to host memory.

Every rank writes its own pieces on a thread of its own; that of rank 0 then waits until all parts
lie there and commits. The threads use no collectives, which would meet those of the training.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pipelines.lineage.resume_states import commit_state, place_of_state
from pipelines.worker.host_copies import HostCopies
from storage.errors import StorageError, Unavailable
from storage.pieces import Piece, write_part

PATIENCE_SECONDS = 900.0
"""How long rank 0 waits for the parts of others, which retry for minutes where S3 throttles."""
_POLL_SECONDS = 0.2


class Saver:
    """One rank's writer of resume states, one state at a time."""

    def __init__(
        self, attempt_uri: str, *, rank: int, world_size: int, token: str, keep: int
    ) -> None:
        """Make a writer; `token` is the same on all ranks of a worker group, and on no other's."""
        self._attempt, self._keep = attempt_uri, keep
        self._rank, self._world_size, self._token = rank, world_size, token
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._written, self._given_up = threading.Event(), threading.Event()
        self.failure: str | None = None
        """What went wrong with a state of this rank: one line."""

    def save(
        self,
        step: int,
        pieces: Iterable[Piece],
        told: Sequence[Mapping[str, float]] = (),
        best: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy the pieces and return, after the state before was written.

        On a GPU the copies are queued behind the step before, and the next steps behind them: the
        host does not wait. `told` and `best` go into the manifest
        (`lineage.resume_states.commit_state`).
        """
        self.finish()
        copies = HostCopies(pieces, self._buffers)
        self._written.clear()
        self._thread = threading.Thread(
            target=self._write, args=(step, copies, told, best), name=f"save-{step}", daemon=True
        )
        self._thread.start()

    def settle(self) -> None:
        """Wait until this rank's part is written, or is a `failure`."""
        if self._thread is not None:
            self._written.wait()

    def finish(self) -> None:
        """Wait for the commit. On rank 0 this takes `PATIENCE_SECONDS` if another rank failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def give_up(self) -> None:
        """Leave the state uncommitted if parts of it are missing yet."""
        self._given_up.set()
        self.finish()

    def _write(
        self,
        step: int,
        copies: HostCopies,
        told: Sequence[Mapping[str, float]],
        best: Mapping[str, Any] | None,
    ) -> None:
        try:
            pieces = copies.finite(step)
            place = place_of_state(self._attempt, step)
            write_part(place, self._token, self._rank, self._world_size, pieces)
            self._written.set()
            if self._rank == 0:
                self._commit(step, told, best)
        except BaseException as error:  # nobody else hears what a thread dies of
            self.failure = f"the state of step {step} could not be saved: {_described(error)}"
        finally:
            self._written.set()

    def _commit(
        self, step: int, told: Sequence[Mapping[str, float]], best: Mapping[str, Any] | None
    ) -> None:
        began = time.monotonic()
        while not commit_state(
            self._attempt,
            step,
            token=self._token,
            writers=self._world_size,
            keep=self._keep,
            told=told,
            best=best,
        ):
            if self._given_up.wait(_POLL_SECONDS):
                return
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise Unavailable(f"the part of a rank is missing after {PATIENCE_SECONDS:.0f} s")


def _described(error: BaseException) -> str:
    """What happened, in one line; with the class for an error that is none of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, StorageError | OSError) else f"{type(error).__name__}: {text}"
