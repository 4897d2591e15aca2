"""Run Ray Train beside the driver, which handles what the workers say meanwhile."""

import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from ray.exceptions import RayError
from ray.train import TrainingFailedError
from ray.util.queue import Queue

from cluster.elastic import ElasticTrainer
from pipelines.cli.ray_errors import explain_failure
from pipelines.lineage.manifest import read_manifest
from pipelines.training.prepare import Plan
from pipelines.training.relay import drain, message_queue
from pipelines.worker.background import Background
from pipelines.worker.messages import Message
from pipelines.worker.micro_batch import read_micro_batch
from storage.errors import BadInput, StorageError

T = TypeVar("T")


def ended(training: Background, stop: threading.Event | None) -> bool:
    """Whether the training is over. Raises KeyboardInterrupt where it shall stop."""
    if stop is not None and stop.is_set():
        raise KeyboardInterrupt
    return not training.is_alive()


def fit(
    trainer: Callable[[Queue, str], ElasticTrainer],
    plan: Plan,
    handle: Callable[[Message], None],
    stop: threading.Event | None,
    note: Callable[[str], None],
) -> Exception | None:
    """Train until the weights are committed; return the first failure to handle a message.

    Workers can be lost between the commit and their end when no restart is left.

    Raises:
        storage.errors.BadInput, Failed: why the weights are not committed.
    """
    untracked = None
    try:
        queue = message_queue()
        with tempfile.TemporaryDirectory(prefix="vit-on-ray-train-") as scratch:
            training = Background(trainer(queue, scratch).fit)
            untracked = drain(queue, handle, ended=lambda: ended(training, stop))
            training.result()
    except (TrainingFailedError, RayError) as error:  # RayError: the cluster went away
        failure = explain_failure(plan.stage.name, error)
        if not _is_committed(plan):
            raise failure from None
        note(f"warning: the weights are committed, but then {failure}")
    return untracked


def _is_committed(plan: Plan) -> bool:
    with suppress(StorageError):
        return read_manifest(plan.attempt.uri) is not None
    return False


def with_smaller_micro_batches(
    train: Callable[[], T], attempt_uri: str, note: Callable[[str], None]
) -> T:
    """Train, and again whenever a worker has halved the micro-batch (`worker.micro_batch`)."""
    while True:
        before = read_micro_batch(attempt_uri)
        try:
            return train()
        except BadInput:
            found = read_micro_batch(attempt_uri)
            if found is None or found == before:
                raise
            if found.too_large != (before.too_large if before else ()):
                tried, rest = f"micro-batch {found.too_large[-1]} needs", found.most
            else:
                tried, rest = "an evaluation needs", f"{found.evaluated} images at once in it"
            note(f"{tried} more memory than a GPU has: starting again with {rest}")
