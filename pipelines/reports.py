"""From the workers to the driver: rank 0's reports pass the controller into a queue.

The driver reads the queue beside `trainer.fit()`, so MLflow and the terminal have one writer.
"""

import re
import threading
from collections.abc import Callable
from typing import Any

from ray.train import Checkpoint, UserCallback
from ray.util.queue import Empty, Queue

POLL_SECONDS = 0.5
Message = dict[str, Any]
# `storage.errors.BadSample: shard ...`, as the last line of a traceback
_RAISED = re.compile(r"^(?P<name>(?:[a-z_][\w]*\.)*[A-Z]\w*): (?P<message>.+)$")


class Forward(UserCallback):
    """Runs on the controller: puts what rank 0 reported, and failures, into the queue."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def after_report(
        self, run_context: object, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Called after every rank has reported."""
        self.queue.put(metrics[0])

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Called when workers were lost or raised."""
        lost = {rank: ": ".join(root_cause(error)) for rank, error in worker_exceptions.items()}
        self.queue.put({"kind": "lost", "workers": lost})


class Inbox:
    """Hands every message to `handle`, on a thread, until it is closed and empty."""

    def __init__(self, handle: Callable[[Message], None]) -> None:
        self.queue = Queue(actor_options={"num_cpus": 0})
        self.error: Exception | None = None
        self._handle = handle
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Handle what is left, then stop."""
        self._closing.set()
        self._thread.join()
        self.queue.shutdown()

    def _run(self) -> None:
        while True:
            closing = self._closing.is_set()  # asked before the look: nothing comes after it
            try:
                message = self.queue.get(timeout=POLL_SECONDS)
            except Empty:
                if closing:
                    return
                continue
            except Exception as error:  # the queue's actor died with the cluster
                self.error = error
                return
            try:
                self._handle(message)
            except Exception as error:
                # Tracking must not stop training; the first failure is said at the end.
                self.error = self.error or error


def root_cause(error: BaseException) -> tuple[str, str]:
    """Class name and message of the innermost failure in a nest of Ray's errors.

    Ray wraps what a task or worker raised into its own errors' text, and adds advice below it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    for line in reversed(lines):
        match = _RAISED.match(line)
        if match and not line.startswith("ray."):
            return match["name"].rpartition(".")[2], match["message"]
    return type(error).__name__, lines[-1] if lines else ""
