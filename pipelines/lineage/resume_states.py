"""Resume states, written and read: a folder for each, committed by its manifest.

<attempt>/resume/step-00000100/TOKEN-00000-of-00002.safetensors  a rank's pieces (storage.pieces)
                              /manifest.json   written last
                              /damaged.json    in place of it: why the state is not used
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from pipelines.lineage.newest_state import (
    FOLDER,
    folder_of_states,
    newest_state,
    place_of_state,
    step_of,
    steps_with,
)
from storage import commits, weights
from storage.errors import (
    CorruptWeights,
    ObjectNotFound,
    StorageError,
    Unavailable,
    WeightsExist,
)
from storage.json_values import BadValue, is_whole, parse_object, text_of
from storage.objects import open_store
from storage.pieces import Pieces, commit_parts, open_pieces, write_part
from storage.store import ObjectStore

DAMAGED = "damaged.json"


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

    The ranks of a group check its files together. What one of them finds damaged is put aside only
    after the first one found the same in the storage: a full disk or a missing mount of one machine
    must not cost a good state. `damaged.json` keeps the manifest that was in force.

    Args:
        attempt_uri: the attempt.
        rank: of this process in its group.
        world_size: processes in the group.
        chosen: gives every process of a group the step that the first one found.
        agreed: gives them the same text, empty where nobody has one to say.

    Raises:
        Unavailable: a state is whole in the storage, but a machine of the group cannot read it.
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
                _check_manifest(found.manifest, place)
            except CorruptWeights as error:
                damage = str(error)
            damage = agreed(damage)
            if found is not None and not damage:
                yield found
                return
        confirmed = agreed(_confirm(place) if rank == 0 else "")
        if not confirmed:
            raise Unavailable(
                f"{damage}: the storage holds that state whole, so nothing was put aside"
            )
        if rank == 0:
            _put_aside(open_store(place), confirmed)


def _confirm(place: str) -> str:
    """What is wrong with a state in the storage, looked at again; empty where nothing is."""
    damage = commits.damage_of(place)
    if damage is not None:
        return damage
    try:  # every file holds what it should: is its content of use?
        with open_pieces(place) as found:
            _check_manifest(found.manifest, place)
    except CorruptWeights as error:
        return str(error)
    return ""


def _check_manifest(manifest: Mapping[str, object], place: str) -> None:
    """What a resume reads of it. Raises CorruptWeights."""
    told, best = manifest.get("told"), manifest.get("best", {})
    lists = isinstance(told, list) and isinstance(best, dict)
    if not is_whole(manifest.get("step")) or not lists:
        raise CorruptWeights(f"{place}/{weights.MANIFEST} does not say what was trained")


def _put_aside(store: ObjectStore, reason: str) -> None:
    """Write why a state is not used, and what would bring it back; then remove its manifest."""
    try:
        manifest = store.read(weights.MANIFEST).decode(errors="replace")
    except ObjectNotFound:
        return  # the first rank of another group was faster
    aside = {"reason": reason, "manifest": manifest}
    store.write(DAMAGED, json.dumps(aside, indent=1).encode())
    store.delete(weights.MANIFEST)


def damaged_states(attempt_uri: str) -> dict[int, str]:
    """Step -> what is wrong with the state that was put aside, and not written again since."""
    again = steps_with(attempt_uri, weights.MANIFEST)
    return {
        step: _reason(open_store(place_of_state(attempt_uri, step)).read(DAMAGED))
        for step in steps_with(attempt_uri, DAMAGED)
        if step not in again
    }


def _reason(data: bytes) -> str:
    try:
        return text_of(parse_object(data), "reason")
    except BadValue as error:
        return f"its {DAMAGED} cannot be read ({error})"


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
    best: Mapping[str, Any] | None = None,
) -> bool:
    """Commit a state and delete all but the newest `keep`; False where parts are missing yet.

    `told` are the newest metrics, one record per step: the driver that received them may be gone.
    `best` says which evaluation was the best so far; its weights are among the pieces.
    """
    place = place_of_state(attempt_uri, step)
    manifest = {"format_version": 3, "step": step, "told": list(told)}
    if best is not None:
        manifest["best"] = dict(best)
    try:
        if not commit_parts(place, token, writers, manifest):
            return False
    except WeightsExist:  # a group that was given up for dead was faster: the same state
        return True
    kept = steps_with(attempt_uri, weights.MANIFEST)[-keep:]
    drop_states(attempt_uri, below=min(kept))
    return True


def drop_states(attempt_uri: str, *, below: int | None = None) -> None:
    """Delete the states of fewer steps than `below`; all where it is None."""
    store = folder_of_states(attempt_uri)
    found = [(step, key) for key in store.list() if (step := step_of(key)) is not None]
    dropped = [(step, key) for step, key in found if below is None or step < below]
    # manifests first: a half-deleted state must not look committed
    for _, key in sorted(dropped, key=lambda one: not one[1].endswith(weights.MANIFEST)):
        store.delete(key)
    for step in sorted({step for step, _ in dropped}):
        store.sweep(f"step-{step:08d}")
    if below is None:
        open_store(attempt_uri).sweep(FOLDER)


def drop_leftovers(attempt_uri: str) -> str:
    """Delete the states of a committed attempt, which nobody needs; a line where that fails."""
    try:
        drop_states(attempt_uri)
    except StorageError as error:
        return f"warning: its resume states only take room now, and cannot be deleted: {error}"
    return ""
