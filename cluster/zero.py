"""Derive DeepSpeed's configuration from our settings, so that nothing has to be set twice."""

from collections.abc import Sequence
from typing import Any

from cluster.batching import BatchPlan
from cluster.budget import REDUCE_BUCKET
from cluster.errors import BadPlace
from cluster.precision import Precision
from cluster.settings import Zero


def zero_config(
    zero: Zero,
    batch: BatchPlan,
    *,
    precision: Precision,
    clip_norm: float | None,
    gpu: bool = False,
    leaf_classes: Sequence[str] = (),
) -> dict[str, Any]:
    """The dict for `deepspeed.initialize` (keys: deepspeed.ai/docs/config-json).

    Args:
        zero: level and offloading.
        batch: how the workers share the global batch.
        precision: precision of the forward and backward pass.
        clip_norm: largest global norm of the gradients, if any.
        gpu: whether workers have GPUs.
        leaf_classes: modules whose weights level 3 gathers at once, as `package.module.Class`.
            Hooks on each module inside them would cost the host more time than a block's
            arithmetic.

    Raises:
        BadPlace: bfloat16 at level 0, where DeepSpeed keeps no float32 master weights by name.
    """
    if precision == "bfloat16" and zero.level == 0:
        raise BadPlace("precision bfloat16 needs zero.level 1, 2 or 3, found 0 - raise the level")
    sharding: dict[str, Any] = {"stage": zero.level, "reduce_bucket_size": REDUCE_BUCKET}
    if zero.offload_optimizer:
        sharding["offload_optimizer"] = {"device": "cpu"}
    if zero.level:
        # Reduce on a separate stream while the backward pass continues; a CPU has one stream.
        sharding["overlap_comm"] = gpu and batch.workers > 1
    if zero.level in (1, 2):
        # DeepSpeed sums each bucket over all workers in either case. With reduce_scatter it sums a
        # copy of the bucket, and copies each worker's sums back.
        sharding["reduce_scatter"] = False
    if zero.level == 1 and not sharding["overlap_comm"]:
        # They are reduced once, after the backward pass. Copying each into a buffer before would
        # cost the host as much time as the backward pass itself.
        sharding["contiguous_gradients"] = False
    if zero.level == 3 and leaf_classes:
        sharding["leaf_module"] = {"classes": list(leaf_classes)}
    config: dict[str, Any] = {
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
        # It would wait for the GPU twice per micro-batch; throughput is measured elsewhere.
        "timers": {"throughput": {"enabled": False}},
    }
    if accumulates_in_float32(precision, batch.accumulation):
        config["data_types"] = {"grad_accum_dtype": "fp32"}
        if zero.level == 1:
            # The sum is reduced once per step, without rounding it.
            config["communication_data_type"] = "fp32"
    return config


def accumulates_in_float32(precision: Precision, accumulation: int) -> bool:
    """Whether gradients are summed in a wider format than they are computed in.

    A sum of 64 micro-batches in bfloat16 has an error of 1.1 % of the gradient.
    """
    return precision == "bfloat16" and accumulation > 1
