"""Where DeepSpeed keeps each parameter, its float32 master and its states, at every ZeRO level.

All that follows from the inside of DeepSpeed 0.19.8 is here; `resume_state` is made of it.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


def inner_optimizer(engine: "DeepSpeedEngine") -> torch.optim.Optimizer:
    """The torch optimizer inside DeepSpeed's wrapper (level 0 in float32 has no wrapper)."""
    wrapped: Any = engine.optimizer
    return getattr(wrapped, "optimizer", wrapped)


def master_tensors(engine: "DeepSpeedEngine") -> list[Tensor]:
    """The float32 tensors the torch optimizer steps: flat partitions, or the parameters."""
    wrapped: Any = engine.optimizer
    for name in (
        "single_partition_of_fp32_groups",  # levels 1 and 2
        "fp32_groups_flat_partition",  # level 1 in bfloat16, accumulating in float32
        "fp32_partitioned_groups_flat",  # level 3
    ):
        if hasattr(wrapped, name):
            return list(getattr(wrapped, name))
    return [p for group in wrapped.param_groups for p in group["params"]]


def grouped_masters(engine: "DeepSpeedEngine") -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Each of these tensors with its parameter group."""
    groups, wrapped = inner_optimizer(engine).param_groups, cast("Any", engine.optimizer)
    masters = master_tensors(engine)
    if hasattr(wrapped, "sub_group_to_group_id"):  # level 3 cuts large groups
        for number, master in enumerate(masters):
            yield groups[wrapped.sub_group_to_group_id[number]], master
        return
    for group in groups:
        for master in group["params"]:
            yield group, master


def module_of(engine: "DeepSpeedEngine") -> nn.Module:
    """The network inside the engine."""
    module = engine.module
    assert isinstance(module, nn.Module)
    return module


def trained(engine: "DeepSpeedEngine") -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that are trained: those that the optimizer has."""
    for name, parameter in module_of(engine).named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def is_replicated(engine: "DeepSpeedEngine") -> bool:
    """Level 0 in float32: no wrapper, every worker holds all."""
    return inner_optimizer(engine) is engine.optimizer


def shape_of(parameter: nn.Parameter) -> tuple[int, ...]:
    """Shape of a whole parameter, which level 3 empties."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def local_part(
    engine: "DeepSpeedEngine", parameter: nn.Parameter, kind: str | None
) -> tuple[int, Tensor] | None:
    """Where this worker's part of a parameter (or state `kind`) begins, and the part: [n]."""
    if hasattr(parameter, "ds_id"):  # level 3: equal shares, the last ones padded
        zero: Any = engine.optimizer
        # The public safe_get_local_* give a copy where the optimizer is offloaded.
        held, _ = zero._get_fp32_opt_state_partition(
            parameter, release_swap_buffers=False, optim_state_key=kind
        )
        start = len(held) * engine.global_rank
        count = min(len(held), prod(shape_of(parameter)) - start)
        return (start, held[:count]) if count > 0 else None
    if is_replicated(engine):
        value = parameter if kind is None else inner_optimizer(engine).state[parameter][kind]
        return 0, value.detach().view(-1)
    mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]  # set by levels 1 and 2
    if mapping is None:  # all of it is with other workers
        return None
    return mapping.lp_fragment_address.start, mapping.get_hp_fragment(kind).detach()


def full_tensor(engine: "DeepSpeedEngine", parameter: nn.Parameter, kind: str | None) -> Tensor:
    """One parameter (or its optimizer state `kind`) whole, on every rank (collective)."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if is_replicated(engine):
        return parameter if kind is None else inner_optimizer(engine).state[parameter][kind]
    if kind is None:
        value = safe_get_full_fp32_param(parameter)
    else:
        value = safe_get_full_optimizer_state(parameter, kind)
    assert value is not None, f"DeepSpeed keeps no {kind or 'weights'} of a parameter"
    return value


def keep_moments(
    engine: "DeepSpeedEngine", moments: Mapping[nn.Parameter, tuple[str, ...]]
) -> None:
    """Keep the names of the states of each parameter beside the engine."""
    own: Any = engine
    own.moments = moments


def moments_of(engine: "DeepSpeedEngine", parameter: nn.Parameter) -> tuple[str, ...]:
    """Names of the states that the optimizer keeps of a parameter."""
    own: Any = engine
    return own.moments[parameter]
