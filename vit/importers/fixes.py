"""Rewrite tensors that our models do not have into tensors that they have. All rewrites are exact.

Each function changes `weights`, whose names are those of our models, and returns notes for the log.
"""

import re

import torch
from torch import Tensor

from vit.importers.errors import BadCheckpoint

Weights = dict[str, Tensor]


def fold_layer_scale(weights: Weights) -> list[str]:
    """Multiply LayerScale's factors into the layer before them (arXiv:2103.17239).

    `x + gamma * (W h + b)` equals `x + (gamma W) h + gamma b`.
    """
    folded = 0
    for name in list(weights):
        match = re.fullmatch(r"blocks\.(\d+)\.(?:ls([12])\.gamma|gamma_([12]))", name)
        if match is None:
            continue
        layer = "attn.proj" if (match[2] or match[3]) == "1" else "mlp.fc2"
        before = f"blocks.{match[1]}.{layer}"
        if f"{before}.weight" not in weights:
            continue
        gamma = weights.pop(name)
        weights[f"{before}.weight"] = weights[f"{before}.weight"] * gamma[:, None]
        if f"{before}.bias" in weights:
            weights[f"{before}.bias"] = weights[f"{before}.bias"] * gamma
        folded += 1
    return [f"LayerScale folded into attn.proj and mlp.fc2 ({folded} tensors)"] if folded else []


def add_missing_biases(weights: Weights) -> list[str]:
    """Add biases of zeros where the checkpoint's qkv or patch embedding has none."""
    notes: list[str] = []
    blocks = [n for n in weights if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.weight", n)]
    without = [n for n in blocks if n.replace("weight", "bias") not in weights]
    if without and len(without) == len(blocks):
        for name in without:
            weights[name.replace("weight", "bias")] = torch.zeros(weights[name].shape[0])
        notes.append("attn.qkv.bias: not in the checkpoint, set to zeros")
    kernel = weights.get("patch_embed.proj.weight")
    if kernel is not None and "patch_embed.proj.bias" not in weights:
        weights["patch_embed.proj.bias"] = torch.zeros(kernel.shape[0])
        notes.append("patch_embed.proj.bias: not in the checkpoint, set to zeros")
    return notes


def distillation_as_register(weights: Weights) -> list[str]:
    """Make DeiT's distillation token a register; leave its second head out (arXiv:2012.12877)."""
    token = weights.pop("dist_token", None)
    if token is None:
        return []
    weights["reg_token"] = token
    notes = ["the distillation token became a register"]
    if [weights.pop(f"head_dist.{leaf}", None) for leaf in ("weight", "bias")] != [None, None]:
        notes.append("head_dist left out: logits are those of the class token's head alone")
    return notes


def class_token_as_register(weights: Weights) -> None:
    """Turn the class token into the first register: the blocks see it, the mean leaves it out."""
    token, registers = weights.pop("cls_token"), weights.get("reg_token")
    weights["reg_token"] = token if registers is None else torch.cat([token, registers], dim=1)


def class_row_into_token(weights: Weights) -> None:
    """Add the first row of the position table to the class token and remove it from the table.

    DINOv2 has a row for the class token and none for its registers.
    """
    table = weights["pos_embed"]
    weights["cls_token"] = weights["cls_token"] + table[:, :1]
    weights["pos_embed"] = table[:, 1:]


def fold_pixels(weights: Weights, mean: tuple[float, ...], std: tuple[float, ...]) -> list[str]:
    """Make the first layer take pixels in [-1, 1] instead of (pixel - mean) / std."""
    if all(value == 0.5 for value in (*mean, *std)):
        return []
    name, bias = "patch_embed.proj.weight", "patch_embed.proj.bias"
    if name not in weights or any("backbone" in key for key in weights):
        raise BadCheckpoint(
            f"pixels of mean {mean} and std {std} cannot be folded into this stem: its first"
            " layer has no bias"
        )
    kernel = weights[name].double()
    channels = kernel.shape[1]
    if channels == 1 and len(mean) == 3:  # as timm's resolve_data_config does
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    if not channels == len(mean) == len(std):
        raise BadCheckpoint(
            f"patch_embed has {channels} channels, but mean has {len(mean)} values and std"
            f" {len(std)}"
        )
    scale = torch.tensor([0.5 / s for s in std], dtype=torch.float64)
    shift = [(0.5 - m) / s for m, s in zip(mean, std, strict=True)]
    shift = torch.tensor(shift, dtype=torch.float64)
    weights[bias] = (weights[bias].double() + kernel.sum((2, 3)) @ shift).float()
    weights[name] = (kernel * scale[:, None, None]).float()
    return [f"patch_embed: rewritten from pixels of mean {mean} and std {std} to [-1, 1]"]
