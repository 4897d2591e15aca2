"""Leave out what DeepSpeed's host does for each parameter in each step to no effect.

A ViT-B/16 has 152 parameters. Where a step of the GPU is short, the GPU waits for the host.
"""

from typing import Any

import torch
import torch.distributed as dist


def spare_host(sharded: Any) -> None:
    """Shorten the step's host time at levels 1 and 2; the results stay equal, bit by bit.

    Args:
        sharded: DeepSpeed's `DeepSpeedZeroOptimizer`, without offloading.
    """
    groups = range(len(sharded.bit16_groups))
    bind = sharded._update_model_bit16_weights

    def bind_once(group: int) -> None:
        """Make the parameters views of their flat vector, if they are not."""
        flat, first = sharded.bit16_groups_flat[group], sharded.bit16_groups[group][0]
        if first.untyped_storage().data_ptr() != flat.untyped_storage().data_ptr():
            bind(group)

    sharded._update_model_bit16_weights = bind_once
    sharded.report_ipg_memory_usage = nothing  # makes a text per gradient, and prints none
    alone = dist.get_world_size(sharded.dp_process_group) == 1
    reduces_early = sharded.partition_gradients or sharded.contiguous_gradients
    sums_apart = any(map(sharded._use_compact_grad_partition_buffer, groups))
    if alone and not reduces_early and not sums_apart:
        # One worker's gradients are the average already. DeepSpeed would copy them twice.
        sharded.reduce_ready_partitions_and_remove_grads = nothing


def nothing(*_: Any, **__: Any) -> None:
    """Stands in the place of a function of DeepSpeed whose work is not needed."""


def spare_sums(summed: Any) -> None:
    """Add the gradients of a micro-batch to their float32 sums in one call, and forget them.

    DeepSpeed makes a float32 copy of each gradient, adds that, and zeros the gradient before the
    next backward pass, which then adds to the zeros.

    Args:
        summed: DeepSpeed's `BF16_Optimizer`, without `immediate_grad_update`.
    """
    assert not summed.immediate_grad_update
    known, places = summed.fp32_groups_has_gradients, []
    for group, parameters in enumerate(summed.bf16_groups):
        for index, parameter in enumerate(parameters):
            parameter._hp_grad = summed.fp32_groups_gradients[group][index]
            places.append((parameter, parameter._hp_grad.view(parameter.shape), group, index))

    @torch.no_grad()
    def update_hp_grads(clear_lp_grads: bool = False) -> None:
        found = [place for place in places if place[0].grad is not None]
        torch.ops.aten._foreach_add_.List([each[1] for each in found], [p.grad for p, *_ in found])
        for parameter, _, group, index in found:
            parameter.grad = None
            known[group][index] = True

    summed.update_hp_grads = update_hp_grads
