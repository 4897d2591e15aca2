"""From the workers to the driver: rank 0's reports pass the controller into a queue.

The driver reads it while `trainer.fit()` runs on a thread: MLflow and the terminal have one
writer, and Ctrl-C reaches us (on the main thread Ray Train would take the signal for itself).
"""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import Checkpoint, UserCallback
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.cli.ray_errors import root_cause
from pipelines.worker.messages import MESSAGE, Message, WorkersLost

POLL_SECONDS = 0.5


class Relay(UserCallback):
    """Runs on the controller: puts what rank 0 reported, and failures, into the queue."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def after_report(
        self, run_context: object, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Called after every rank has reported."""
        message = metrics[0].get(MESSAGE)
        assert message is not None, "rank 0 reported nothing"
        self.queue.put(message)

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Called when workers were lost or raised."""
        lost = {rank: _brief(*root_cause(error)) for rank, error in worker_exceptions.items()}
        self.queue.put(WorkersLost(reasons=lost))


def message_queue() -> Queue:
    """A queue beside the driver: on a spot node it would be lost with the node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def drain(
    queue: Queue, handle: Callable[[Message], None], *, ended: Callable[[], bool]
) -> Exception | None:
    """Handle messages until it `ended` and none is left; return the first failure to handle one.

    Tracking must not stop training: a message that could not be handled is dropped.
    """
    failure: Exception | None = None
    while True:
        last = ended()  # asked before the look: nothing comes after it
        try:
            message = queue.get(timeout=POLL_SECONDS)
        except Empty:
            if last:
                return failure
            continue
        except RayError as error:  # the queue died with the cluster
            return failure or error
        try:
            handle(message)
        except Exception as error:
            failure = failure or error


def _brief(name: str, message: str) -> str:
    """Without the advice that Ray adds to the death of a process: what killed it is in our log."""
    return f"{name}: {message.split(' Some common causes include', 1)[0]}"
