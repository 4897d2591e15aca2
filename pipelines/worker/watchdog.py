"""A rank that makes no progress is ended, not waited for: it says where it was, and is restarted.

Python cannot interrupt a thread that hangs in a collective, in a driver or on a disk. So a thread
of each worker watches its steps; when none was made for too long, it leaves a note with the stacks
of all threads in the attempt's folder and ends the process, and Ray Train starts the group anew.

<attempt>/stalled/rank-00001.json                  a `Stall`
                 /step-00000042-rank-00001.json    the same, once the driver has told it
"""

import faulthandler
import json
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from pipelines.worker.flight_recorder import Collectives, collectives
from storage.errors import StorageError
from storage.objects import open_store
from storage.uri import join

FOLDER = "stalled"
MOST_LINES = 5  # about ranks of which nothing special is known
EXIT_CODE = 75
"""EX_TEMPFAIL: trying again may help."""
COMPILED = ("train", "evaluate")
"""What compiles the model's blocks when it is done for the first time."""
_STDERR = 2
_FAREWELL_SECONDS = 5.0
"""All ranks wait for the one that hangs: each gets time to leave its note before the group ends."""


@dataclass(frozen=True, kw_only=True)
class Stall:
    """What a rank said before it was ended."""

    rank: int
    world_size: int
    step: int
    """The step that it was in."""
    doing: str
    """`fetch` (waits for data), `train`, `report`, `save`, `evaluate`, `start` or `commit`."""
    seconds: float
    stacks: str
    """Of all its threads."""
    collectives: Collectives | None = None
    """How far it was in the group's collective operations, if it could tell."""


class Watchdog:
    """Watches one worker; `beat` at each sign of life."""

    def __init__(
        self,
        attempt_uri: str,
        *,
        rank: int,
        world_size: int,
        seconds: float,
        first_seconds: float = 0.0,
    ) -> None:
        """Watch from now on.

        Args:
            attempt_uri: where notes go.
            rank: of this worker.
            world_size: workers of the group.
            seconds: how long it may be silent; 0: nobody watches.
            first_seconds: how much longer in its first step and its first evaluation.
        """
        self._attempt, self._rank, self._world_size = attempt_uri, rank, world_size
        self._seconds, self._first_seconds = seconds, first_seconds
        self._known: set[str] = set()
        self._last = (time.monotonic(), 0, "start", seconds)
        self._died: BaseException | None = None
        self._ended = threading.Event()
        if seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, step: int, doing: str) -> None:
        """Say that the worker begins to do something.

        Raises:
            RuntimeError: nobody watches any more; a restart brings a new watchdog.
        """
        if self._died is not None:
            raise RuntimeError("the watchdog's thread died") from self._died
        more = self._first_seconds if doing in COMPILED and doing not in self._known else 0.0
        self._known.add(doing)
        self._last = (time.monotonic(), step, doing, self._seconds + more)

    def end(self) -> None:
        """Watch no more."""
        self._ended.set()

    def _watch(self) -> None:
        try:
            self._wait_for_silence()
        except BaseException as error:  # `beat` says so
            self._died = error

    def _wait_for_silence(self) -> None:
        while True:
            since, step, doing, allowed = self._last
            silent = time.monotonic() - since
            if silent >= allowed:
                break
            if self._ended.wait(min(1.0, allowed - silent)):
                return
        try:  # first: the store may be what hangs
            threading.Timer(_FAREWELL_SECONDS, os._exit, (EXIT_CODE,)).start()
        except BaseException:  # no memory, or no more threads
            os._exit(EXIT_CODE)
        stall = Stall(
            rank=self._rank,
            world_size=self._world_size,
            step=step,
            doing=doing,
            seconds=silent,
            stacks=_stacks(),
        )
        store = open_store(self._attempt)
        with suppress(StorageError):
            store.write(_key(self._rank), json.dumps(asdict(stall)).encode())
            # Last, because a GPU's driver may be what hangs, and while torch asks it, no other
            # thread of Python runs. This timer, which needs none, ends the process then.
            faulthandler.dump_traceback_later(2 * _FAREWELL_SECONDS, exit=True, file=_STDERR)
            stall = replace(stall, collectives=collectives())
            store.read(_key(self._rank))  # or the driver has told it already
            store.write(_key(self._rank), json.dumps(asdict(stall)).encode())


def stall_lines(attempt_uri: str) -> list[str]:
    """What the notes of an attempt say, in lines that name the rank to look at; they stay there."""
    store = open_store(join(attempt_uri, FOLDER))
    try:
        keys = sorted(key for key in store.list() if key.startswith("rank-"))
        found = [_stall(store.read(key)) for key in keys]
        for key, stall in zip(keys, found, strict=True):
            store.write(f"step-{stall.step:08d}-{key}", store.read(key))
            store.delete(key)
    except StorageError as error:
        return [f"what the workers last did cannot be read: {error}"]
    return explain(found) if found else []


def explain(found: Sequence[Stall]) -> list[str]:
    """Name the ranks that are behind the others, or say nothing at all."""
    silent = sorted(set(range(found[0].world_size)) - {stall.rank for stall in found})
    step = min(stall.step for stall in found)
    slow = list(found) if silent else [stall for stall in found if stall.step == step]
    lines = [
        f"rank {stall.rank} made no progress for {stall.seconds:.0f} s in step {stall.step}"
        f" ({stall.doing})"
        for stall in slow[:MOST_LINES]
    ]
    if len(slow) > MOST_LINES:
        lines.append(f"so did {len(slow) - MOST_LINES} other ranks")
    if silent:
        return lines + [f"rank {rank} did not even say so: look there first" for rank in silent]
    return lines + _awaited(slow)


def _awaited(slow: Sequence[Stall]) -> list[str]:
    """Name those that the others wait for in a collective operation."""
    known = {stall.rank: stall.collectives for stall in slow if stall.collectives is not None}
    if len(known) < len(slow):
        return []
    least, most = (of((c.called, c.started) for c in known.values()) for of in (min, max))
    return [
        f"rank {rank} called {own.called} collective operations ({own.started} known to have begun)"
        f" and last {own.last}, others {most[0]} ({most[1]}): look there first"
        for rank, own in known.items()
        if (own.called, own.started) == least != most
    ]


def _stall(note: bytes) -> Stall:
    values = json.loads(note)
    known = values.pop("collectives", None)
    return Stall(**values, collectives=known and Collectives(**known))


def _key(rank: int) -> str:
    return f"{FOLDER}/rank-{rank:05d}.json"


def _stacks() -> str:
    try:
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return file.read().decode(errors="replace")
    except OSError as error:  # a full disk
        return f"they could not be written to this machine's disk: {error}"
