"""Infer a model from its tensors: everything but heads, GELU, epsilon and pixel normalisation."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

Shown = dict[str, tuple[Any, str]]
"""Maps a field to its value and the tensor that shows it."""
_PARTS = {
    "patch_bias": "patch_embed.proj.bias",
    "pre_norm": "norm_pre.weight",
    "qk_norm": "blocks.0.attn.q_norm.weight",
    "attn_norm": "blocks.0.attn.norm.weight",
    "mlp_norm": "blocks.0.mlp.norm.weight",
    "proj_bias": "blocks.0.attn.proj.bias",
    "layer_scale": "blocks.0.ls1.gamma",
    "distilled": "dist_token",
}
"""Yes-or-no fields, and the tensor that a model has only if they are set."""
BIAS_TABLE = "blocks.0.attn.relative_position_bias_table"
_POSITIONS = {
    "pos_embed": "learned-1d",
    "pos_embed_y": "learned-2d",
    "blocks.0.attn.rel_pos": "relative",
    BIAS_TABLE: "relative-bias",
}
"""Tensors of position embeddings, and their kinds."""


def may_turn(weights: Mapping[str, Tensor]) -> bool:
    """Whether a model may have rotary positions: EVA's and DINOv3's keys have no bias, and neither
    have those of BEiT, whose positions its tensors show."""
    return "blocks.0.attn.q_bias" in weights and BIAS_TABLE not in weights


def unstacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split tensors [depth, ...] that hold all blocks, as big_vision saves them with `scan`."""
    flat: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"Transformer/encoderblock/(.+)", name):
            parts = {
                f"Transformer/encoderblock_{i}/{match[1]}": t for i, t in enumerate(tensor.unbind())
            }
            flat.update(parts)
        else:
            flat[name] = tensor
    return flat


def heads_of_flax(tensors: Mapping[str, Tensor]) -> int | None:
    """Number of heads by the shape of a query kernel [..., D, heads, d]; None in other layouts."""
    pattern = r"Transformer/encoderblock(?:_0)?/MultiHeadDotProductAttention_\d/query/kernel"
    found = [t for name, t in tensors.items() if re.fullmatch(pattern, name)]
    return found[0].shape[-2] if found else None


def shown_by_tensors(weights: Mapping[str, Tensor]) -> Shown:
    """The config fields that tensors show (under our names), except those of the position table."""
    if "stem.conv.weight" in weights:
        return _bit(weights)
    shown: Shown = {}
    kernel = weights.get("patch_embed.proj.weight")
    if kernel is not None:
        by = _of("patch_embed.proj.weight", kernel)
        shown |= {"width": (kernel.shape[0], by), "patch_size": (kernel.shape[-1], by)}
    shown |= _stem(weights, kernel)
    depth = _count(weights, r"blocks\.(\d+)\..+")
    shown["depth"] = (depth, f"blocks.0 to blocks.{depth - 1}")
    first, second = weights.get("blocks.0.mlp.fc1.weight"), weights.get("blocks.0.mlp.fc2.weight")
    if first is not None and second is not None:
        gated = first.shape[0] == 2 * second.shape[1]
        shown["mlp"] = ("swiglu" if gated else "gelu", _of("blocks.0.mlp.fc1.weight", first))
        shown["mlp_dim"] = (second.shape[1], _of("blocks.0.mlp.fc2.weight", second))
    shown["num_classes"] = _classes(weights, "head.weight")
    hidden = "pre_logits.fc.weight" in weights
    shown["head"] = ("mlp", "pre_logits.fc") if hidden else ("linear", "no pre_logits.fc")
    registers = weights.get("reg_token")
    count = 0 if registers is None else registers.shape[1]
    shown["registers"] = (count, "no reg_token" if registers is None else f"{count} in reg_token")
    normed = "fc_norm.weight" in weights
    shown["fc_norm"] = (normed, "fc_norm.weight" if normed else "no fc_norm.weight")
    for name, kind in _POSITIONS.items():
        if name in weights:
            shown["pos_embed"] = (kind, name)
    if BIAS_TABLE in weights:
        shown["heads"] = (weights[BIAS_TABLE].shape[1], _of(BIAS_TABLE, weights[BIAS_TABLE]))
    return shown | _parts(weights)


def _parts(weights: Mapping[str, Tensor]) -> Shown:
    """The parts that a model has or has not, each shown by the name of one tensor."""
    shown: Shown = {}
    for field, name in _PARTS.items():
        there = name in weights
        shown[field] = (there, name if there else f"no {name}")
    rms = "blocks.0.norm1.weight" in weights and "blocks.0.norm1.bias" not in weights
    shown["norm"] = ("rms" if rms else "layer", f"{'no ' if rms else ''}blocks.0.norm1.bias")
    if "blocks.0.attn.q_bias" in weights:
        shown["qkv_bias"] = ("no-key", "blocks.0.attn.q_bias")
    else:
        there = "blocks.0.attn.qkv.bias" in weights
        by = f"{'' if there else 'no '}blocks.0.attn.qkv.bias"
        shown["qkv_bias"] = ("all" if there else "none", by)
    return shown


def _stem(weights: Mapping[str, Tensor], kernel: Tensor | None) -> Shown:
    conv = weights.get("patch_embed.backbone.stem.conv.weight")
    if conv is None:
        channels = {} if kernel is None else {"in_channels": (kernel.shape[1], "patch_embed.proj")}
        return {"stem_blocks": ((), "no patch_embed.backbone"), **channels}
    name = "patch_embed.backbone.stem.conv.weight"
    return {
        "stem_blocks": (_blocks(weights, r"patch_embed\.backbone\."), "patch_embed.backbone"),
        "stem_width_factor": (conv.shape[0] // 64, _of(name, conv)),
        "in_channels": (conv.shape[1], _of(name, conv)),
    }


def _bit(weights: Mapping[str, Tensor]) -> Shown:
    conv = weights["stem.conv.weight"]
    by = _of("stem.conv.weight", conv)
    return {
        "blocks": (_blocks(weights, ""), "stages.*.blocks.*"),
        "width_factor": (conv.shape[0] // 64, by),
        "in_channels": (conv.shape[1], by),
        "num_classes": _classes(weights, "head.fc.weight"),
    }


def _blocks(weights: Mapping[str, Tensor], where: str) -> tuple[int, ...]:
    stages = _count(weights, rf"{where}stages\.(\d+)\..+")
    return tuple(
        _count(weights, rf"{where}stages\.{stage}\.blocks\.(\d+)\..+") for stage in range(stages)
    )


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    found = [int(match[1]) for name in weights if (match := re.fullmatch(pattern, name))]
    return max(found, default=-1) + 1


def _classes(weights: Mapping[str, Tensor], name: str) -> tuple[int, str]:
    head = weights.get(name)
    return (0, f"no {name}") if head is None else (head.shape[0], _of(name, head))


def _of(name: str, tensor: Tensor) -> str:
    return f"{name} {list(tensor.shape)}"
