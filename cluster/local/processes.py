"""Remember started processes by id and start time, so that exactly these can be stopped.

Nodes come and go as children of the autoscaler; if it dies first, they lose their parent. Therefore
all processes also carry a random mark in their environment, which children inherit.
"""

import contextlib
import json
import os
import secrets
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import BadPlace

FILE = "state.json"
MARK = "VIT_ON_RAY_LOCAL"
_GRACE_SECONDS = 10
_ROUNDS = 5


@dataclass(frozen=True)
class Started:
    """A process; its start time distinguishes it from a later one with the same id."""

    pid: int
    created: float

    def find(self) -> psutil.Process | None:
        """The process if it still runs, otherwise None."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 0.01
            return process if same and _runs(process) else None
        except psutil.NoSuchProcess:
            return None


@dataclass(kw_only=True)
class State:
    """The content of state.json."""

    mark: str = field(default_factory=lambda: secrets.token_hex(16))
    scratch: str
    """Temporary folder of Ray, deleted at the end."""
    ports: dict[str, int]
    started: dict[str, Started] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write state.json, replacing the file as a whole."""
        new = folder / f"{FILE}.new"
        new.write_text(json.dumps(asdict(self), indent=1))
        new.replace(folder / FILE)

    def start(
        self, name: str, command: list[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        """Start a process that outlives this one and logs into the folder."""
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command lines, no shell
                command,
                env={**environment, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the shell is not meant for it
            )
        self.started[name] = Started(process.pid, psutil.Process(process.pid).create_time())
        self.write(folder)

    def missing(self) -> list[str]:
        """Names of the processes that no longer run."""
        return [name for name, each in self.started.items() if each.find() is None]


def read_state(folder: Path) -> State | None:
    """Read what was started from this folder, or None. Raises BadPlace if it cannot be read."""
    path = folder / FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        started = {name: Started(**each) for name, each in content.pop("started").items()}
        return State(**content, started=started)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadPlace(
            f"{path} cannot be read ({error}): wanted the file that `up` wrote. Stop the cluster's"
            f" processes, which have {MARK} in their environment, and delete the file"
        ) from None


def family(state: State) -> list[psutil.Process]:
    """All live processes of the cluster: started ones, their children, and all with the mark."""
    started = (each.find() for each in state.started.values())
    found = with_children(process for process in started if process)
    found |= with_children(with_variable(MARK, state.mark))
    return [each for each in found if each.pid != os.getpid() and _runs(each)]


def with_variable(name: str, value: str) -> Iterator[psutil.Process]:
    """Processes that have this in their environment.

    Those that set a title, as Ray's agents do, overwrite their environment and are not found.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(name) == value:
                yield process


def with_children(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """These processes, and all that descend from them."""
    found: set[psutil.Process] = set()
    for process in processes:
        if process not in found:  # else its children are there as well
            found.add(process)
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= set(process.children(recursive=True))
    return found


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def nodes(state: State) -> list[psutil.Process]:
    """The raylets that the autoscaler started, one per node, without the head's."""
    found = []
    for process in family(state):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "raylet" and "--head" not in process.cmdline():
                found.append(process)
    return found


def end(state: State) -> int:
    """Stop all processes of the cluster; return their number.

    They may start others meanwhile, so it looks again until none is left.
    """
    ended: set[int] = set()
    for _ in range(_ROUNDS):
        processes = family(state)
        if not processes:
            break
        ended |= {each.pid for each in processes}
        for each in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
        for each in psutil.wait_procs(processes, timeout=_GRACE_SECONDS)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    return len(ended)
