"""Weights that are not trained: kept as they were given, in float32 on rank 0.

No optimizer of DeepSpeed's holds them. The module does, but under bfloat16 rounded and at level 3
in parts; a stage must hand on exactly what it was given. Resume states hold them too: a resume
needs neither the parent's weights nor the checkpoint, which may be gone.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


def take_frozen(model: nn.Module) -> dict[str, Tensor]:
    """The weights that are not trained, by name: float32, on the host.

    Call it before DeepSpeed is given the model. What is on the host already is not copied: nothing
    writes to it.
    """
    return {
        name: parameter.detach().to("cpu", torch.float32)
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
    }


def keep_frozen(engine: "DeepSpeedEngine", weights: Mapping[str, Tensor]) -> None:
    """Keep what `take_frozen` found beside the engine. Rank 0's counts, and no other is kept."""
    own: Any = engine
    own.frozen_weights = dict(weights) if engine.global_rank == 0 else {}


def frozen_weights(engine: "DeepSpeedEngine") -> Mapping[str, Tensor]:
    """The weights that are not trained, as `take_frozen` gives them; none on ranks other than 0."""
    own: Any = engine
    return own.frozen_weights


@torch.no_grad()
def copy_from_module(parameter: nn.Parameter, target: Tensor) -> None:
    """Copy a parameter that is not trained, whole, as the module computes with it (collective)."""
    if not hasattr(parameter, "ds_id"):
        target.copy_(parameter)
        return
    from deepspeed.runtime.zero import GatheredParameters  # level 3

    with GatheredParameters([parameter]):
        target.copy_(parameter)
