"""Full training state, parameter by parameter, whatever the ZeRO level and the worker count.

What is saved knows no partitions: `weights/NAME` and one entry per optimizer state, such as
`exp_avg/NAME`, each in the parameter's own shape and float32. So a run saved by 4 workers at level
3 continues on 1 worker at level 1 with no conversion.

DeepSpeed's `safe_get_*` assemble a parameter from its partitions (collective: every rank calls).
Two traps are handled here: optimizer states must exist before DeepSpeed links them (see
`prime_optimizer`), and level 3 cannot set a parameter whose size the workers do not divide.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

WEIGHTS = "weights"
AVERAGE = "average"
"""Polyak average of the weights, kept as one more optimizer state: partitioned, saved, restored."""


def gather_weights(engine: "DeepSpeedEngine", kind: str | None = None) -> dict[str, Tensor]:
    """Every parameter, or its state `kind`, by name; float32, on the host (collective).

    Empty on ranks other than 0.
    """
    found = {}
    for name, parameter in _module(engine).named_parameters():
        value = _full(engine, parameter, kind)
        if engine.global_rank == 0:
            found[name] = value.detach().to("cpu", torch.float32, copy=True)
    return found


def gather_state(engine: "DeepSpeedEngine") -> dict[str, Tensor]:
    """Weights and optimizer states, ready for safetensors (collective).

    Returns:
        `weights/NAME` and `STATE/NAME`, float32 on the host; empty on ranks other than 0.
    """
    found = {f"{WEIGHTS}/{name}": value for name, value in gather_weights(engine).items()}
    for kind in _kinds(engine):
        states = gather_weights(engine, kind)
        found.update({f"{kind}/{name}": value for name, value in states.items()})
    return found


def module_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a saved state that goes into the module before the engine is built."""
    prefix = f"{WEIGHTS}/"
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def prime_optimizer(engine: "DeepSpeedEngine", *, average: bool = False) -> None:
    """Create the optimizer states as zeros, as they are before step 0, and the average as asked.

    torch creates them at the first step; DeepSpeed 0.19.8 links them to its parameters after the
    first *group's* first step, so that those of every later group are never found again. States
    that exist beforehand are linked at once, and can be set.
    """
    inner = inner_optimizer(engine)
    for master in _master_tensors(engine):
        inner.state[master] = {kind: torch.zeros_like(master) for kind in _moments(inner)}
        if average:
            inner.state[master][AVERAGE] = master.detach().clone()
        if isinstance(inner, torch.optim.AdamW):  # counts its steps for the bias correction
            inner.state[master]["step"] = torch.tensor(0.0)
    link = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        link()


def restore_optimizer(engine: "DeepSpeedEngine", state: Mapping[str, Tensor], *, step: int) -> None:
    """Put the state saved after `step` steps into an engine built with its weights (collective).

    Under bfloat16 the float32 master weights are set too: the module holds them rounded.
    """
    for states in inner_optimizer(engine).state.values():
        if "step" in states:
            states["step"].fill_(step)
    for name, parameter in _module(engine).named_parameters():
        for kind in [None, *_kinds(engine)]:
            _set_full(engine, parameter, kind, state[f"{kind or WEIGHTS}/{name}"])


@torch.no_grad()
def update_average(engine: "DeepSpeedEngine", decay: float) -> None:
    """After a step: average <- decay * average + (1 - decay) * weights, each rank its partition."""
    inner = inner_optimizer(engine)
    for master in _master_tensors(engine):
        inner.state[master][AVERAGE].lerp_(master, 1 - decay)


def _kinds(engine: "DeepSpeedEngine") -> tuple[str, ...]:
    """Names of the states kept per parameter."""
    inner = inner_optimizer(engine)
    averaged = AVERAGE in inner.state[_master_tensors(engine)[0]]
    return (*_moments(inner), AVERAGE) if averaged else _moments(inner)


def _moments(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """Names of the states torch keeps per parameter."""
    if isinstance(optimizer, torch.optim.AdamW):
        return ("exp_avg", "exp_avg_sq")
    assert isinstance(optimizer, torch.optim.SGD), f"no resume state for {type(optimizer)}"
    return ("momentum_buffer",) if optimizer.defaults["momentum"] else ()


def inner_optimizer(engine: "DeepSpeedEngine") -> torch.optim.Optimizer:
    """The torch optimizer inside DeepSpeed's wrapper (level 0 in float32 has no wrapper)."""
    wrapped: Any = engine.optimizer
    return getattr(wrapped, "optimizer", wrapped)


def _master_tensors(engine: "DeepSpeedEngine") -> list[Tensor]:
    """The float32 tensors the torch optimizer steps: flat partitions, or the parameters."""
    wrapped: Any = engine.optimizer
    for name in (
        "single_partition_of_fp32_groups",  # levels 1 and 2
        "fp32_partitioned_groups_flat",  # level 3
    ):
        if hasattr(wrapped, name):
            return list(getattr(wrapped, name))
    return [p for group in wrapped.param_groups for p in group["params"]]


def _module(engine: "DeepSpeedEngine") -> nn.Module:
    module = engine.module
    assert isinstance(module, nn.Module)
    return module


def _is_wrapped(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _full(engine: "DeepSpeedEngine", parameter: nn.Parameter, kind: str | None) -> Tensor:
    """One parameter (or its optimizer state `kind`) whole, on every rank."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if not _is_wrapped(parameter):  # level 0 in float32: replicated
        return parameter if kind is None else inner_optimizer(engine).state[parameter][kind]
    if kind is None:
        value = safe_get_full_fp32_param(parameter)
    else:
        value = safe_get_full_optimizer_state(parameter, kind)
    assert value is not None, f"DeepSpeed keeps no {kind or WEIGHTS} of a parameter"
    return value


def _set_full(
    engine: "DeepSpeedEngine", parameter: nn.Parameter, kind: str | None, value: Tensor
) -> None:
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value = value.to(engine.device)
    if not _is_wrapped(parameter):
        target = parameter if kind is None else inner_optimizer(engine).state[parameter][kind]
        target.data.copy_(value)
        return
    if hasattr(parameter, "ds_id"):
        share = int(parameter.ds_tensor.ds_numel)  # type: ignore[attr-defined]  # set by level 3
        padded = torch.zeros(share * engine.world_size, device=value.device)
        padded[: value.numel()] = value.flatten()
        local = padded[share * engine.global_rank :][:share]
        if kind is None:
            safe_set_local_fp32_param(parameter, local)
        else:
            safe_set_local_optimizer_state(parameter, local, kind)
        return
    if kind is None:
        safe_set_full_fp32_param(parameter, value)
    else:
        safe_set_full_optimizer_state(parameter, value, kind)
