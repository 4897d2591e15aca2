"""A worker group whose size always divides the global batch, and that is not restarted in vain.

Ray Train's own elastic policy takes any count between two bounds; here those that cannot share the
batch equally are left out, and the next smaller one that can is taken: the batch never changes.
Ray Train restarts after every error; here one that would come again ends the training at once.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from ray.train import FailureConfig, Result, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.failure_handling import (
    DefaultFailurePolicy,
    FailureDecision,
)
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.config import ScalingConfig

_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_OWN_TIMEOUT = os.environ.get(_START_TIMEOUT)
_FIXED_SECONDS = "300"
"""A group of fixed size waits so long for nodes before it asks again: spot ones take minutes."""
_ELASTIC_SECONDS = "20"
"""An elastic one was sized by nodes that were there; if it waits, one has died since."""


class EqualShares(ElasticScalingPolicy):
    """Ray Train's elastic policy, rounded down to a number of workers that may train."""

    def __init__(self, scaling_config: ScalingConfig, *, counts: Sequence[int]) -> None:
        super().__init__(scaling_config)
        self._counts = counts

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        return largest_share(
            super()._count_possible_workers(reserved_resources), counts=self._counts
        )


class EndsAtOnce(DefaultFailurePolicy):
    """Ray Train's own failure policy, but for what a restart does not mend."""

    def __init__(
        self, failure_config: FailureConfig, *, ends: Callable[[TrainingFailedError], bool]
    ) -> None:
        super().__init__(failure_config)
        self._ends = ends

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """RAISE, RETRY or NOOP."""
        if self._ends(training_failed_error):
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


class ElasticTrainer(TorchTrainer):
    """`TorchTrainer` with those policies; the first where `num_workers` is a range.

    Args:
        arguments: `TorchTrainer`'s.
        counts: the numbers of workers that may train (`scaling.worker_counts`).
        ends: whether a failure ends the training at once.
        more: `TorchTrainer`'s.
    """

    def __init__(
        self,
        *arguments: Any,
        counts: Sequence[int],
        ends: Callable[[TrainingFailedError], bool],
        **more: Any,
    ) -> None:
        super().__init__(*arguments, **more)
        self._counts, self._ends = counts, ends

    def _initialize_and_run_controller(self, **controller: Any) -> Result:
        failures = self.run_config.failure_config or FailureConfig()
        controller["failure_policy"] = EndsAtOnce(failures, ends=self._ends)
        elastic = self.scaling_config.elasticity_enabled
        seconds = _ELASTIC_SECONDS if elastic else _FIXED_SECONDS
        os.environ[_START_TIMEOUT] = _OWN_TIMEOUT or seconds  # Ray Train hands it on
        if elastic:
            controller["scaling_policy"] = EqualShares(self.scaling_config, counts=self._counts)
        return super()._initialize_and_run_controller(**controller)


def scaling_config(*, fewest: int, most: int, cpus: float, gpus: int) -> ScalingConfig:
    """Ray Train's own words for it; a range makes the worker group elastic."""
    return ScalingConfig(
        num_workers=most if fewest == most else (fewest, most),
        use_gpu=gpus > 0,
        resources_per_worker={"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus},
    )


def largest_share(workers: int, *, counts: Sequence[int]) -> int:
    """The largest of `counts` that is `workers` at most; 0 for none."""
    return max((n for n in counts if n <= workers), default=0)
