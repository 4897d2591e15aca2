"""Groups of ranks that read a stage's stream, are killed, and continue from the last cursor."""

import contextlib
import os
import signal
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import ray
import torch
from ray.exceptions import RayError

from cluster.settings import Place
from pipelines.lineage.resume_states import newest_state, save_state
from pipelines.recipes.stage import Stage
from pipelines.recipes.streams import train_spec, val_spec
from pipelines.worker.feed import TRAIN, OrderedDataConfig, placeholder

SAVE_EVERY = 4  # steps
_STALL_SECONDS = 120.0


@dataclass(frozen=True)
class Step:
    """A global batch as it arrived: epochs, positions int64 [G], checksums of pixels uint32 [G]."""

    epochs: np.ndarray
    positions: np.ndarray
    checksums: np.ndarray


@dataclass
class History:
    """The steps that were read; a kill drops those after the last cursor."""

    steps: list[Step] = field(default_factory=list)
    kills: int = 0


@dataclass(frozen=True)
class Killing:
    """Number of kills, and the seed that chooses when and which process."""

    kills: int
    seed: int


class Rank:
    """One rank, which reads its batches as a training worker does, a few steps ahead."""

    def __init__(self, iterator: Any, rows: int) -> None:
        self._batches = iter(
            iterator.iter_batches(batch_size=rows, batch_format="numpy", prefetch_batches=2)
        )

    def read(self) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """Return (step, epochs [b], positions [b], checksums [b]) of the next batch."""
        batch = next(self._batches)
        (step,) = set(batch["step"].tolist())
        checksums = np.array([zlib.crc32(image.tobytes()) for image in batch["image"]], np.uint32)
        return step, batch["epoch"].copy(), batch["index"].copy(), checksums


@dataclass(frozen=True)
class Reading:
    """What the groups read, and where their cursor is kept."""

    stage: Stage
    place: Place
    dataset_uri: str
    attempt_uri: str


def follow(reading: Reading, sizes: tuple[int, ...], killing: Killing | None) -> History:
    """Read all steps; group i has sizes[i mod n] ranks."""
    history, steps = History(), reading.stage.steps
    random = np.random.default_rng(killing.seed if killing else 0)
    kills = killing.kills if killing else 0
    moments = sorted(random.choice(np.arange(1, steps), kills, replace=False).tolist())
    while len(history.steps) < steps:
        state = newest_state(reading.attempt_uri)
        del history.steps[state.step if state else 0 :]
        until = moments.pop(0) if moments else None
        _group(reading, sizes[history.kills % len(sizes)], history, until, random)
        history.kills += until is not None
    return history


def _group(
    reading: Reading, size: int, history: History, until: int | None, random: np.random.Generator
) -> None:
    """Run one worker group to the end, or to the step at which it is killed."""
    config = OrderedDataConfig(
        train_spec(reading.stage, reading.dataset_uri),
        val_spec(reading.stage, reading.dataset_uri),
        reading.place,
        steps=reading.stage.steps,
        attempt_uri=reading.attempt_uri,
    )
    iterators = config.configure({TRAIN: placeholder()}, size, None, None)
    rows = reading.stage.global_batch // size
    start: Any = ray.remote(num_cpus=0)(Rank)
    ranks = [start.remote(shards[TRAIN], rows) for shards in iterators]
    try:
        while len(history.steps) < reading.stage.steps:
            waiting = [rank.read.remote() for rank in ranks]
            if until is not None and len(history.steps) >= until:
                _kill(ranks, random)
                with contextlib.suppress(RayError):
                    ray.get(waiting, timeout=_STALL_SECONDS)
                return
            parts = ray.get(waiting, timeout=_STALL_SECONDS)
            numbers = {part[0] for part in parts}
            if numbers != {len(history.steps)}:
                raise RuntimeError(f"step {len(history.steps)} was fed as {sorted(numbers)}")
            _, *columns = zip(*parts, strict=True)
            history.steps.append(Step(*map(np.concatenate, columns)))
            done = len(history.steps)
            if done % SAVE_EVERY == 0 and done < reading.stage.steps:
                save_state(reading.attempt_uri, {"cursor": torch.zeros(1)}, step=done)
    finally:
        for rank in ranks:
            ray.kill(rank)


def _kill(ranks: list[Any], random: np.random.Generator) -> None:
    """Kill one rank in the middle of its step; half of the time a decoding process as well."""
    if random.random() < 0.5:
        decoders = _decoders()
        if decoders:
            with contextlib.suppress(ProcessLookupError):
                os.kill(decoders[int(random.integers(len(decoders)))], signal.SIGKILL)
    time.sleep(float(random.random()) * 0.2)
    ray.kill(ranks[int(random.integers(len(ranks)))])


def _decoders() -> list[int]:
    """Return process ids of the decoding tasks of the local Ray."""
    children = psutil.Process().children(recursive=True)
    names = [(child.pid, _title(child)) for child in children]
    return [pid for pid, name in names if name.startswith("ray::") and "_blocks" in name]


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
