"""Where resume states lie and which is the newest; one folder a state, committed by its manifest.

<attempt>/resume/step-00000100/weights.safetensors   weights and optimizer states by name
                              /manifest.json         written last
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from storage import weights
from storage.objects import open_store
from storage.uri import join

FOLDER = "resume"


@dataclass(frozen=True)
class ResumeState:
    """A committed state: the training of `step` steps is in it."""

    step: int
    uri: str


def newest_state(attempt_uri: str) -> ResumeState | None:
    """The committed state with the most steps, or None. By step, never by a clock."""
    folder = join(attempt_uri, FOLDER)
    steps = [int(manifest["step"]) for _, manifest in weights.committed(folder)]
    return ResumeState(max(steps), _place(attempt_uri, max(steps))) if steps else None


def save_state(attempt_uri: str, tensors: Mapping[str, Tensor], *, step: int) -> None:
    """Commit a state, then delete the older ones."""
    uri = _place(attempt_uri, step)
    weights.commit(uri, tensors, {"format_version": 1, "step": step})
    drop_states(attempt_uri, below=step)


def drop_states(attempt_uri: str, *, below: int | None = None) -> None:
    """Delete the states of fewer steps than `below`; all where it is None."""
    store = open_store(join(attempt_uri, FOLDER))
    keys = sorted(store.list(), key=lambda key: not key.endswith(weights.MANIFEST))
    for key in keys:  # manifests first: a state half deleted is none
        step = int(key.split("/", 1)[0].removeprefix("step-"))
        if below is None or step < below:
            store.delete(key)


def _place(attempt_uri: str, step: int) -> str:
    return join(attempt_uri, FOLDER, f"step-{step:08d}")
