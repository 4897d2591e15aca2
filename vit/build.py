"""`build_model` makes every model of this package.

A model is laid out on the meta device, given memory, filled with NaN and only then initialised, so
that a forgotten tensor cannot hide. Initialisation draws from its own random generator: every
worker builds the same weights, and the random state of torch does not change.
"""

import math
from typing import Literal, overload

import torch

from vit.config import BiTConfig, Config, ViTConfig
from vit.init import init_weights
from vit.model import ViT
from vit.resnet import BiT

Device = Literal["cpu", "meta"]
Model = ViT | BiT


@overload
def build_model(config: ViTConfig, *, seed: int = 0, device: Device = "cpu") -> ViT: ...
@overload
def build_model(config: BiTConfig, *, seed: int = 0, device: Device = "cpu") -> BiT: ...
@overload
def build_model(config: Config, *, seed: int = 0, device: Device = "cpu") -> Model: ...
def build_model(config: Config, *, seed: int = 0, device: Device = "cpu") -> Model:
    """Build `config`'s model in float32; `device="meta"` gives shapes without memory."""
    with torch.device("meta"):
        model = ViT(config) if isinstance(config, ViTConfig) else BiT(config)
    if device == "meta":
        return model
    model.to_empty(device="cpu")
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(math.nan)
    init_weights(model, config, torch.Generator().manual_seed(seed))
    forgotten = [name for name, tensor in tensors.items() if tensor.isnan().any()]
    assert not forgotten, f"init_weights left NaN in {forgotten}"
    return model
