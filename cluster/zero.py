"""DeepSpeed's configuration, derived: nothing here is anybody's setting twice."""

from typing import Any, Literal

from cluster.batching import BatchPlan
from cluster.budget import REDUCE_BUCKET
from cluster.errors import BadPlace
from cluster.settings import Zero

Precision = Literal["float32", "bfloat16"]


def zero_config(
    zero: Zero, batch: BatchPlan, *, precision: Precision, clip_norm: float | None
) -> dict[str, Any]:
    """The dict for `deepspeed.initialize` (keys: deepspeed.ai/docs/config-json).

    Raises:
        BadPlace: bfloat16 at level 0, where DeepSpeed keeps no float32 master weights by name.
    """
    if precision == "bfloat16" and zero.level == 0:
        raise BadPlace("precision bfloat16 needs zero.level 1, 2 or 3, found 0 - raise the level")
    sharding: dict[str, Any] = {"stage": zero.level, "reduce_bucket_size": REDUCE_BUCKET}
    if zero.offload_optimizer:
        sharding["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_batch_size": batch.global_batch,
        "train_micro_batch_size_per_gpu": batch.micro,
        "gradient_accumulation_steps": batch.accumulation,
        "gradient_clipping": clip_norm or 0.0,
        "bf16": {"enabled": precision == "bfloat16"},
        "zero_optimization": sharding,
        # The optimizer is torch's own, built from the recipe's parameter groups.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**12,  # DeepSpeed prints "step=..." lines; ours are in the log already
        "wall_clock_breakdown": False,
    }
