"""Where the resume states of an attempt lie, and which is the newest.

Alone, so that the process that deals batches out finds the newest one without importing torch.
"""

import re
from dataclasses import dataclass

from storage.commits import MANIFEST
from storage.objects import open_store
from storage.store import ObjectStore
from storage.uri import join

FOLDER = "resume"
_STATE = re.compile(r"step-(\d{8,})(?:/|$)", re.ASCII)


@dataclass(frozen=True)
class ResumeState:
    """A committed state: the training of `step` steps is in it."""

    step: int
    uri: str


def newest_state(attempt_uri: str) -> ResumeState | None:
    """The committed state with the most steps, or None. By step, never by a clock."""
    steps = steps_with(attempt_uri, MANIFEST)
    return ResumeState(steps[-1], place_of_state(attempt_uri, steps[-1])) if steps else None


def steps_with(attempt_uri: str, name: str) -> list[int]:
    """Steps of the states that have such a file, ascending."""
    keys = folder_of_states(attempt_uri).list()
    steps = [step_of(key) for key in keys if key.endswith(f"/{name}")]
    return sorted(step for step in steps if step is not None)


def step_of(key: str) -> int | None:
    """Steps of the state that a key below the folder belongs to; None for what is no state's."""
    found = _STATE.match(key)
    return int(found.group(1)) if found else None


def folder_of_states(attempt_uri: str) -> ObjectStore:
    """The folder that the states of an attempt lie in."""
    return open_store(join(attempt_uri, FOLDER))


def place_of_state(attempt_uri: str, step: int) -> str:
    """The folder of the state after `step` steps."""
    return join(attempt_uri, FOLDER, f"step-{step:08d}")
