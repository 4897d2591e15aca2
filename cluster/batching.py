"""Batch arithmetic in one place: global = micro x workers x accumulation, exactly.

The global batch is the recipe's and never changes; accumulation follows from it and from what a
worker can hold. It divides or it is an error that spells the equation.
"""

from dataclasses import dataclass

from cluster.errors import BadPlace


@dataclass(frozen=True)
class BatchPlan:
    """One optimizer step: `accumulation` micro-batches of `micro` images on each of `workers`."""

    micro: int
    workers: int
    accumulation: int

    @property
    def global_batch(self) -> int:
        """Images an optimizer step sees over all workers."""
        return self.micro * self.workers * self.accumulation

    @property
    def local_batch(self) -> int:
        """Images an optimizer step sees on one worker."""
        return self.micro * self.accumulation

    def __str__(self) -> str:
        return (
            f"global batch {self.global_batch} = {self.micro} micro x {self.workers} workers"
            f" x {self.accumulation} accumulation"
        )


def plan_batch(
    global_batch: int, *, workers: int, max_micro_batch: int, even: bool = False
) -> BatchPlan:
    """Split the global batch: the largest micro-batch that divides a worker's share and fits.

    Args:
        global_batch: images of an optimizer step over all workers.
        workers: how many share it.
        max_micro_batch: most images a worker pushes through the model at once.
        even: take even micro-batches only: mixup and cutmix pair the samples of one.

    Raises:
        BadPlace: the workers cannot share the global batch equally, or not by even micro-batches.
    """
    local, rest = divmod(global_batch, workers)
    if rest:
        fits = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
        near = sorted(fits, key=lambda n: (abs(n - workers), n))[:4]
        raise BadPlace(
            f"global batch {global_batch} = {workers} workers x {global_batch / workers:.2f}"
            f" does not divide exactly - use a number of workers such as"
            f" {', '.join(str(n) for n in sorted(near))}"
        )
    fitting = [n for n in range(1, min(local, max_micro_batch) + 1) if local % n == 0]
    taken = [n for n in fitting if n % 2 == 0] if even else fitting
    if not taken:
        raise BadPlace(
            f"mixup and cutmix pair the samples of a micro-batch, but of {workers} workers each has"
            f" {local} of global batch {global_batch}: no even micro-batch up to"
            f" max_micro_batch {max_micro_batch} divides that - change workers.min, workers.max,"
            " max_micro_batch or the recipe's global_batch"
        )
    micro = max(taken)
    return BatchPlan(micro=micro, workers=workers, accumulation=local // micro)
