"""Rewrite tensors that a model does not have into tensors that it has. All rewrites are exact.

Each function changes `weights`, whose names are those of our models, and returns notes for the log.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vit.config import ViTConfig
from vit.importers.errors import BadCheckpoint

Weights = dict[str, Tensor]


def fold_layer_scale(weights: Weights) -> list[str]:
    """Multiply LayerScale's factors into the layer before them (arXiv:2103.17239).

    `x + gamma * (W h + b)` equals `x + (gamma W) h + gamma b`.
    """
    folded = 0
    for name in list(weights):
        match = re.fullmatch(r"blocks\.(\d+)\.ls([12])\.gamma", name)
        if match is None:
            continue
        before = f"blocks.{match[1]}.{'attn.proj' if match[2] == '1' else 'mlp.fc2'}"
        gamma = weights.pop(name)
        weights[f"{before}.weight"] = weights[f"{before}.weight"] * gamma[:, None]
        if f"{before}.bias" in weights:
            weights[f"{before}.bias"] = weights[f"{before}.bias"] * gamma
        folded += 1
    return [f"LayerScale folded into attn.proj and mlp.fc2 ({folded} tensors)"] if folded else []


def add_query_key_value_biases(weights: Weights) -> list[str]:
    """Add biases of zeros where the checkpoint's queries, keys and values, or keys, have none."""
    for name in [n for n in weights if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.weight", n)]:
        attention = name.removesuffix("qkv.weight")
        zeros = torch.zeros(weights[name].shape[1])
        q, v = (weights.pop(f"{attention}{part}_bias", zeros) for part in "qv")
        weights[f"{attention}qkv.bias"] = torch.cat([q, zeros, v])
    return ["attn.qkv.bias: not in the checkpoint, set to zeros"]


def add_patch_bias(weights: Weights) -> list[str]:
    """Add a bias of zeros to the patch embedding."""
    kernel = weights["patch_embed.proj.weight"]
    weights["patch_embed.proj.bias"] = torch.zeros(kernel.shape[0])
    return ["patch_embed.proj.bias: not in the checkpoint, set to zeros"]


def fit_parts(weights: Weights, fields: Mapping[str, Any], config: ViTConfig) -> dict[str, Any]:
    """Rewrite the parts of a checkpoint that `config`'s model has not.

    Args:
        weights: of the checkpoint, changed here.
        fields: what is known of its model; unchanged.
        config: of the model that the weights go into.

    Returns:
        The new values of the fields that changed, and under "notes" a list of lines for the log.
    """
    rewrites: tuple[tuple[str, Any, Callable[[Weights], list[str]]], ...] = (
        ("layer_scale", False, fold_layer_scale),
        ("qkv_bias", "all", add_query_key_value_biases),
        ("patch_bias", True, add_patch_bias),
        ("distilled", False, distillation_as_register),
    )
    changed: dict[str, Any] = {"notes": []}
    for name, wanted, rewrite in rewrites:
        if fields.get(name, wanted) != wanted and getattr(config, name) == wanted:
            changed[name] = wanted
            changed["notes"] += rewrite(weights)
    if "distilled" in changed:
        changed["registers"] = fields["registers"] + 1
    return changed


def head_of_the_class_token(weights: Weights) -> list[str]:
    """Cut DINOv2's classifier, which also reads the mean of the patches, to the class token's part.

    If its other part is not zero, no model here computes its logits, and the head is left out.
    """
    head, norm = weights.get("head.weight"), weights.get("norm.weight")
    if head is None or norm is None or head.ndim != 2 or head.shape[1] != 2 * norm.shape[0]:
        return []
    width = norm.shape[0]
    if not head[:, width:].any():
        weights["head.weight"] = head[:, :width].clone()
        return ["head: the part that reads the mean of the patches is zero and was cut off"]
    return _without_head(weights, "also reads the mean of the patches (DINOv2)")


def head_of_a_tower(weights: Weights, *, averages: bool) -> list[str]:
    """Fit the model to the classifier beside a tower of SigLIP, or leave the classifier out.

    Args:
        weights: of the tower.
        averages: whether it is transformers' own, which averages the patches. That of CLIP does so
            before the last norm, which no model here does.
    """
    if "head.weight" not in weights:
        return []
    if "cls_token" in weights:
        return _without_head(weights, "reads patches before the last norm (CLIP)")
    pooled = [name for name in weights if name.startswith("attn_pool.")]
    if pooled and not averages:
        return _without_head(weights, "may read the pooled features or the patches")
    for name in pooled:
        del weights[name]
    return ["left out the attention pooling, which the head does not read"] if pooled else []


def _sum(name: str, tensor: Tensor, other: Tensor) -> Tensor:
    """Their sum, where both have one shape: torch would stretch the smaller one without a word."""
    if tensor.shape != other.shape:
        raise BadCheckpoint(f"{name} is {tuple(tensor.shape)}, wanted {tuple(other.shape)}")
    return tensor + other


def _without_head(weights: Weights, why: str) -> list[str]:
    weights.pop("head.weight")
    weights.pop("head.bias", None)
    return [f"left out the head, which {why}"]


def spread_relative_bias(weights: Weights) -> list[str]:
    """Give every block the table of relative positions that all blocks of a BEiT share, if any.

    A block that has a table of its own adds both.
    """
    table = weights.pop("rel_pos_bias.relative_position_bias_table", None)
    if table is None:
        return []
    blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    for number in blocks:
        name = f"blocks.{number}.attn.relative_position_bias_table"
        weights[name] = _sum(name, weights[name], table) if name in weights else table.clone()
    return ["the table of relative positions that all blocks share was added to each block's"]


def distillation_as_register(weights: Weights) -> list[str]:
    """Make DeiT's distillation token a register; leave its second head out (arXiv:2012.12877)."""
    token = weights.pop("dist_token", None)
    if token is None:
        return []
    registers = weights.get("reg_token")
    weights["reg_token"] = token if registers is None else torch.cat([token, registers], dim=1)
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
    weights["cls_token"] = _sum("cls_token", weights["cls_token"], table[:, :1])
    weights["pos_embed"] = table[:, 1:]


def fold_pixels(
    weights: Weights, mean: tuple[float, ...], std: tuple[float, ...], *, prefix_rows: int
) -> list[str]:
    """Make the first layer take pixels in [-1, 1] instead of (pixel - mean) / std.

    If that layer has no bias, the position table takes its place, whose first `prefix_rows` rows
    are not those of patches.
    """
    if all(value == 0.5 for value in (*mean, *std)):
        return []
    name, bias = "patch_embed.proj.weight", "patch_embed.proj.bias"
    place = next((each for each in (bias, "pos_embed") if each in weights), None)
    if name not in weights or place is None or any("backbone" in key for key in weights):
        raise BadCheckpoint(
            f"pixels of mean {mean} and std {std} cannot be folded into this stem: its first"
            " layer has no bias - a plain patch embedding gets one by --stage.model.patch-bias"
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
    shifted = weights[place].double()
    of_patches = shifted if place == bias else shifted[:, prefix_rows:]  # a view
    of_patches += kernel.sum((2, 3)) @ shift
    weights[place] = shifted.float()
    weights[name] = (kernel * scale[:, None, None]).float()
    return [f"patch_embed: rewritten from pixels of mean {mean} and std {std} to [-1, 1]"]
