"""Where resume states lie and which is the newest; one folder a state, committed by its manifest.

<attempt>/resume/step-00000100/TOKEN-00000-of-00002.safetensors  a rank's pieces (storage.pieces)
                              /manifest.json   written last
                              /damaged.json    in place of it: why the state is not used
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor

from storage import weights
from storage.errors import CorruptWeights, WeightsExist
from storage.objects import open_store
from storage.pieces import Pieces, commit_parts, open_pieces, write_part
from storage.store import ObjectStore
from storage.uri import join

FOLDER = "resume"
DAMAGED = "damaged.json"


@dataclass(frozen=True)
class ResumeState:
    """A committed state: the training of `step` steps is in it."""

    step: int
    uri: str


def newest_state(attempt_uri: str) -> ResumeState | None:
    """The committed state with the most steps, or None. By step, never by a clock."""
    steps = _steps_with(attempt_uri, weights.MANIFEST)
    return ResumeState(steps[-1], place_of_state(attempt_uri, steps[-1])) if steps else None


@contextmanager
def open_state(
    attempt_uri: str,
    *,
    rank: int = 0,
    world_size: int = 1,
    chosen: Callable[[int], int] = int,
    agreed: Callable[[str], str] = str,
) -> Iterator[Pieces | None]:
    """The newest state whose files are those it was committed with, or None.

    The ranks of a group check its files together; the first one puts damaged ones aside.

    Args:
        attempt_uri: the attempt.
        rank: of this process in its group.
        world_size: processes in the group.
        chosen: gives every process of a group the step that the first one found.
        agreed: gives them the same text, empty where nobody has one to say.
    """
    while True:
        newest = newest_state(attempt_uri) if rank == 0 else None
        step = chosen(newest.step if newest else 0)
        if not step:
            yield None
            return
        place = place_of_state(attempt_uri, step)
        with ExitStack() as stack:
            found, damage = None, ""
            try:
                found = stack.enter_context(open_pieces(place, reader=rank, readers=world_size))
            except CorruptWeights as error:
                damage = str(error)
            damage = agreed(damage)
            if found is not None and not damage:
                yield found
                return
        if rank == 0:
            store = open_store(place)
            store.write(DAMAGED, json.dumps({"reason": damage}).encode())
            store.delete(weights.MANIFEST)


def damaged_states(attempt_uri: str) -> dict[int, str]:
    """Step -> what is wrong with the state that was put aside, and not written again since."""
    again = _steps_with(attempt_uri, weights.MANIFEST)
    return {
        step: json.loads(open_store(place_of_state(attempt_uri, step)).read(DAMAGED))["reason"]
        for step in _steps_with(attempt_uri, DAMAGED)
        if step not in again
    }


def save_state(
    attempt_uri: str, tensors: Mapping[str, Tensor], *, step: int, keep: int = 1
) -> None:
    """Write and commit a state alone; `Saver` is for several ranks."""
    token = uuid.uuid4().hex
    pieces = [(name, value.shape, 0, value.reshape(-1)) for name, value in tensors.items()]
    write_part(place_of_state(attempt_uri, step), token, 0, 1, pieces)
    assert commit_state(attempt_uri, step, token=token, writers=1, keep=keep)


def commit_state(
    attempt_uri: str,
    step: int,
    *,
    token: str,
    writers: int,
    keep: int,
    told: Sequence[Mapping[str, float]] = (),
) -> bool:
    """Commit a state and delete all but the newest `keep`; False where parts are missing yet.

    `told` are the newest metrics, a record a step: whoever heard them may be dead by now.
    """
    place = place_of_state(attempt_uri, step)
    manifest = {"format_version": 3, "step": step, "told": list(told)}
    try:
        if not commit_parts(place, token, writers, manifest):
            return False
    except WeightsExist:  # a group that was given up for dead was faster: the same state
        return True
    kept = _steps_with(attempt_uri, weights.MANIFEST)[-keep:]
    drop_states(attempt_uri, below=min(kept))
    return True


def drop_states(attempt_uri: str, *, below: int | None = None) -> None:
    """Delete the states of fewer steps than `below`; all where it is None."""
    store = _folder(attempt_uri)
    keys = sorted(store.list(), key=lambda key: not key.endswith(weights.MANIFEST))
    for key in keys:  # manifests first: a state half deleted is none
        if below is None or step_of(key) < below:
            store.delete(key)


def _steps_with(attempt_uri: str, name: str) -> list[int]:
    """Steps of the states that have such a file, ascending."""
    keys = _folder(attempt_uri).list()
    return sorted(step_of(key) for key in keys if key.endswith(f"/{name}"))


def step_of(key: str) -> int:
    """Steps of the state that a key below the folder belongs to."""
    return int(key.split("/", 1)[0].removeprefix("step-"))


def _folder(attempt_uri: str) -> ObjectStore:
    return open_store(join(attempt_uri, FOLDER))


def place_of_state(attempt_uri: str, step: int) -> str:
    """The folder of the state after `step` steps."""
    return join(attempt_uri, FOLDER, f"step-{step:08d}")
