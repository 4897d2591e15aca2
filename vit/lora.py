"""Low-rank adapters (LoRA, arXiv:2106.09685): train two thin matrices beside each frozen one.

A layer computes W x + B A x, with A [rank, in] random and B [out, rank] zero at first, so that the
model starts as it was given. The factor alpha / rank of the paper is 1. Adding B A to W gives a
model without adapters that computes the same.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init

from vit.errors import BadModel
from vit.layers import new_parameter

TARGETS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
"""Names by which an option asks for an adapter, and the layers of a block they stand for."""
_SPELLING = re.compile(r"lora (\d+)(?: ([a-z0-9,]+))?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Which layers of each block get an adapter, and how thin it is."""

    rank: int
    targets: tuple[str, ...] = ("qkv",)


def lora_of(train: str) -> Lora | None:
    """Read `lora RANK` or `lora RANK TARGET,TARGET`; None for other choices of what is trained.

    Raises BadModel for a rank of 0, an unknown target, or one that is named twice.
    """
    if not train.startswith("lora"):
        return None
    found = _SPELLING.fullmatch(train)
    rank = int(found[1]) if found else 0
    targets = tuple(found[2].split(",")) if found and found[2] else ("qkv",)
    wrong = [name for name in targets if name not in TARGETS or targets.count(name) > 1]
    if rank < 1 or wrong:
        raise BadModel(
            f"train: wanted 'lora RANK' or 'lora RANK TARGETS' with a rank from 1 and some of"
            f" {','.join(TARGETS)} (such as 'lora 8 qkv,proj'), found {train!r}"
        )
    return Lora(rank=rank, targets=targets)


class LoraLinear(nn.Linear):
    """A linear layer with an adapter: [..., in] -> [..., out]."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(1, 1, bias=False, device="meta")
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        with torch.device(layer.weight.device):
            self.lora_a = new_parameter(rank, layer.in_features)
            self.lora_b = new_parameter(layer.out_features, rank)

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output and the adapter's."""
        adapted = F.linear(F.linear(input, self.lora_a), self.lora_b)
        return F.linear(input, self.weight, self.bias) + adapted


def add_adapters(model: nn.Module, lora: Lora, *, seed: int = 0) -> None:
    """Give every block of a ViT its adapters, in place. Raises BadModel for a model without blocks.

    Args:
        model: on the CPU or the meta device.
        lora: where, and of which rank.
        seed: of the random matrices.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise BadModel("train lora adds to the blocks of a Vision Transformer; this model has none")
    generator = torch.Generator().manual_seed(seed)
    for block in blocks:
        for target in lora.targets:
            owner, _, name = TARGETS[target].rpartition(".")
            parent = block.get_submodule(owner)
            layer = parent.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            if lora.rank > min(layer.in_features, layer.out_features):
                raise BadModel(
                    f"train: a rank of {lora.rank} is no less than that of {target} itself,"
                    f" {layer.in_features} to {layer.out_features} channels"
                )
            adapted = LoraLinear(layer, lora.rank)
            setattr(parent, name, adapted)
            if not adapted.lora_a.is_meta:
                init.kaiming_uniform_(adapted.lora_a, a=math.sqrt(5), generator=generator)
                init.zeros_(adapted.lora_b)


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name is an adapter's."""
    return name.endswith((".lora_a", ".lora_b"))


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model without adapters that computes the same, float32."""
    found = {name: each for name, each in tensors.items() if not is_adapter(name)}
    for name in tensors:
        if name.endswith(".lora_a"):
            layer = name.removesuffix(".lora_a")
            product = tensors[f"{layer}.lora_b"] @ tensors[name]
            found[f"{layer}.weight"] = found[f"{layer}.weight"] + product
    return found
