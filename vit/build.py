"""`build_model` makes every model of this package.

A model is laid out on the meta device, given memory, filled with NaN and only then initialised, so
that a forgotten tensor cannot hide. Initialisation draws from its own random generator: every
worker builds the same weights, and the random state of torch does not change.
"""

import math
from collections.abc import Callable
from typing import Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from vit.config import BiTConfig, Config, ViTConfig
from vit.init import init_weights
from vit.model import ViT
from vit.resnet import BiT

Device = Literal["cpu", "meta"]
Model = ViT | BiT
Built = TypeVar("Built", bound=nn.Module)
PRETEXT = "pretext."
"""Begins the names of the tensors that only an objective needs (`vit.objectives`)."""
InitPretext = Callable[[str, Tensor, torch.Generator], object]
"""Fills one such tensor, given its name without the beginning."""


@overload
def build_model(config: ViTConfig, *, seed: int | None = 0, device: Device = "cpu") -> ViT: ...
@overload
def build_model(config: BiTConfig, *, seed: int | None = 0, device: Device = "cpu") -> BiT: ...
@overload
def build_model(config: Config, *, seed: int | None = 0, device: Device = "cpu") -> Model: ...
def build_model(config: Config, *, seed: int | None = 0, device: Device = "cpu") -> Model:
    """Build `config`'s model in float32; `device="meta"` gives shapes without memory.

    `seed=None` leaves its parameters NaN, for a caller that gives it all of them: to draw those of
    a ViT-H takes seconds.
    """

    def model() -> Model:
        return ViT(config) if isinstance(config, ViTConfig) else BiT(config)

    return filled(model, config, seed=seed, device=device)


def filled(
    make: Callable[[], Built],
    config: Config,
    *,
    seed: int | None,
    device: Device,
    pretext: InitPretext | None = None,
) -> Built:
    """Make a model with its first weights.

    Args:
        make: gives the model.
        config: of the model.
        seed: of the weights; None as in `build_model`.
        device: as in `build_model`.
        pretext: fills what an objective adds to the model. The other weights are those of
            `build_model`, because these are drawn afterwards.
    """
    with torch.device("meta"):
        model = make()
    if device == "meta":
        return model
    model.to_empty(device="cpu")
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(math.nan)
        if seed is None:
            tensors = dict(model.named_buffers())
        generator = torch.Generator().manual_seed(seed or 0)
        own = {name: each for name, each in tensors.items() if not name.startswith(PRETEXT)}
        init_weights(own, config, generator)
        for name in [name for name in tensors if name not in own]:
            assert pretext is not None, f"nothing fills {name}"
            pretext(name.removeprefix(PRETEXT), tensors[name], generator)
    forgotten = [name for name, tensor in tensors.items() if tensor.isnan().any()]
    assert not forgotten, f"init_weights left NaN in {forgotten}"
    return model
