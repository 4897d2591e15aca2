"""What does not fit into a GPU's memory where it is tried for the first time is said in one line.

Where a smaller number would fit, the driver starts the group again with half of it. Later, memory
is short because somebody else took of it: that is no mistake, and a restart may help.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch

from cluster.batching import BatchPlan
from cluster.settings import Place
from pipelines.worker.job import Job
from pipelines.worker.micro_batch import evaluated_number, halve, halve_evaluated
from pipelines.worker.out_of_memory import bad_place, held_by_others

OTHERS_BYTES = 2 << 30
"""Others hold more than this of a GPU: more than CUDA itself takes."""


class MemoryGuard:
    """Guards one worker's first uses of memory: its methods raise BadPlace if it ends."""

    def __init__(
        self, job: Job, place: Place, plan: BatchPlan, *, rank: int, device: torch.device
    ) -> None:
        """Agree on the images of an evaluation (collective); `place` has a `max_micro_batch`."""
        self._job, self._place, self._plan, self._device = job, place, plan, device
        self._evaluated: set[bool] = set()
        self.at_once = evaluated_number(
            job.stage, place, plan, job.attempt_uri, rank=rank, device=device
        )
        """Images that an evaluation computes at once."""

    def model(self) -> AbstractContextManager[None]:
        """For building the engine. No smaller number would help."""
        return self._within("the model", None)

    def step(self, *, first: bool) -> AbstractContextManager[None]:
        """For a training step; `first` while it may need more memory than those before."""
        halves = partial(halve, self._job.stage, self._place, self._job.attempt_uri, self._plan)
        number_is_open = self._job.place.max_micro_batch is None
        return self._within(
            f"micro-batch {self._plan.micro}",
            halves if number_is_open else None,
            first=first,
            in_batches=True,
        )

    @contextmanager
    def evaluation(self, *, average: bool) -> Generator[None]:
        """For an evaluation, with the model of the average or without."""
        halves = partial(halve_evaluated, self._job.attempt_uri, self._plan, self.at_once)
        with self._within(
            f"an evaluation of {self.at_once} images at once",
            halves if self.at_once > 1 else None,
            first=average not in self._evaluated,
        ):
            yield
        self._evaluated.add(average)

    @contextmanager
    def _within(
        self,
        what: str,
        halves: Callable[[], None] | None,
        *,
        first: bool = True,
        in_batches: bool = False,
    ) -> Generator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            helpless = halves is None and not in_batches
            if not first or (helpless and held_by_others(self._device) > OTHERS_BYTES):
                raise
            if halves is not None:
                halves()
            raise bad_place(
                self._job.stage,
                self._place,
                self._plan,
                what=what,
                in_batches=in_batches,
                device=self._device,
            ) from None
