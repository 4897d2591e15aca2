"""What a worker does so that little is lost: saves behind the training, notices, a watchdog."""

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import ray.train
import torch

from pipelines.lineage.resume_states import open_state
from pipelines.worker.collectives import agreed_text, of_first_rank
from pipelines.worker.job import Job, Stopped
from pipelines.worker.saver import Saver
from pipelines.worker.watchdog import Watchdog
from storage.pieces import Piece, Pieces

COMPILE_SECONDS = 600.0
"""That compiling the blocks may take: minutes, where a model drops paths."""


class Survival:
    """One rank's; what is marked collective is called by every rank."""

    def __init__(self, job: Job, *, rank: int, world_size: int, device: torch.device) -> None:
        """Agree on a name for the group (collective), and watch from now on."""
        self._attempt, self._device = job.attempt_uri, device
        self._rank, self._world_size = rank, world_size
        self._saver = Saver(
            job.attempt_uri,
            rank=rank,
            world_size=world_size,
            token=f"{of_first_rank(secrets.randbits(62), device):016x}",
            keep=job.place.keep_states,
        )
        self._watchdog = Watchdog(
            job.attempt_uri,
            rank=rank,
            world_size=world_size,
            seconds=job.place.hang_seconds,
            first_seconds=COMPILE_SECONDS if job.place.compile else 0.0,
        )
        self._stalled = 0.0
        self._heeded: object = None
        self.beat = self._watchdog.beat

    def open_state(self) -> AbstractContextManager[Pieces | None]:
        """The newest whole state, the same on every rank (collective)."""
        return open_state(
            self._attempt,
            rank=self._rank,
            world_size=self._world_size,
            chosen=partial(of_first_rank, device=self._device),
            agreed=partial(agreed_text, device=self._device),
        )

    def save(
        self,
        step: int,
        pieces: Iterable[Piece],
        told: Sequence[Mapping[str, float]],
        best: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin to write a state, which remembers the metrics `told` and the best (collective).

        Raises:
            Stopped: the one before could not be written, on some rank.
        """
        self.beat(step, "save")
        began = time.perf_counter()
        failure = self.settle()
        if failure:
            raise Stopped(failure, mistake=False)
        self._saver.save(step, pieces, told, best)
        self._stalled += time.perf_counter() - began

    def settle(self) -> str:
        """Wait for the state that is being written; say why it could not be (collective).

        Nobody waits for the part of a rank that failed. Rank 0 commits last and may fail alone, so
        the ranks agree once on the parts and once on the commit.
        """
        self._saver.settle()
        failure = self._failure()
        if failure:
            self._saver.give_up()
        self._saver.finish()
        return failure or self._failure()

    def _failure(self) -> str:
        """What went wrong on the first rank that failed, if any (collective)."""
        return agreed_text(self._saver.failure or "", self._device)

    def stalled(self) -> float:
        """Seconds that saves have held the training up since the last call."""
        seconds, self._stalled = self._stalled, 0.0
        return seconds

    def notice(self) -> list[int] | None:
        """The ranks whose nodes are about to be taken away, where that is news (collective)."""
        info = ray.train.get_preemption_info()
        if info is None or info == self._heeded:
            return None
        self._heeded = info
        return info.preempted_ranks

    def end(self) -> None:
        """Finish what is being written, and watch no more (collective)."""
        self.settle()
        self._watchdog.end()
