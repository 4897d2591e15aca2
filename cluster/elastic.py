"""A worker group whose size always divides the global batch, and that is not restarted in vain.

Ray Train's own elastic policy takes any count between two bounds; here those that cannot share the
batch equally are left out, and the next smaller one that can is taken: the batch never changes.
Ray Train restarts after every error; here one that would come again ends the training at once.
"""

import os
from collections.abc import Callable
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
    """Ray Train's elastic policy, rounded down to what divides the batch."""

    def __init__(self, scaling_config: ScalingConfig, *, global_batch: int) -> None:
        super().__init__(scaling_config)
        self._global_batch = global_batch

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        return largest_share(
            super()._count_possible_workers(reserved_resources), global_batch=self._global_batch
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
    """`TorchTrainer` with those policies; the first where `num_workers` is a range."""

    def __init__(
        self,
        *arguments: Any,
        global_batch: int,
        ends: Callable[[TrainingFailedError], bool],
        **more: Any,
    ) -> None:
        super().__init__(*arguments, **more)
        self._global_batch, self._ends = global_batch, ends

    def _initialize_and_run_controller(self, **controller: Any) -> Result:
        failures = self.run_config.failure_config or FailureConfig()
        controller["failure_policy"] = EndsAtOnce(failures, ends=self._ends)
        elastic = self.scaling_config.elasticity_enabled
        seconds = _ELASTIC_SECONDS if elastic else _FIXED_SECONDS
        os.environ[_START_TIMEOUT] = _OWN_TIMEOUT or seconds  # Ray Train hands it on
        if elastic:
            controller["scaling_policy"] = EqualShares(
                self.scaling_config, global_batch=self._global_batch
            )
        return super()._initialize_and_run_controller(**controller)


def largest_share(workers: int, *, global_batch: int) -> int:
    """The most workers, `workers` at most, that share the batch equally; 0 for none."""
    return next((n for n in range(workers, 0, -1) if global_batch % n == 0), 0)
