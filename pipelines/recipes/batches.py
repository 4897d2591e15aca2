"""How the workers of a place share a stage's batch: one answer for checks, plan and workers."""

from cluster.batching import BatchPlan, plan_batch
from cluster.scaling import worker_counts
from cluster.settings import Place
from pipelines.recipes.stage import Stage

CPU_MICRO_BATCH = 64
"""In place of null, where there is no GPU memory to fill."""


def batch_of(stage: Stage, place: Place, workers: int) -> BatchPlan:
    """How so many workers share the global batch. Raises BadPlace where they cannot."""
    return plan_batch(
        stage.global_batch,
        workers=workers,
        max_micro_batch=place.max_micro_batch or CPU_MICRO_BATCH,
        even=stage.augment.mixes,
    )


def counts_of(stage: Stage, place: Place) -> tuple[int, ...]:
    """The numbers of workers that may train, ascending. Raises BadPlace if there are none."""
    return worker_counts(place.workers, global_batch=stage.global_batch, even=stage.augment.mixes)
