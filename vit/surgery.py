"""Fit the weights of one model to another: new resolution, new patches, new classes.

The weights of the earlier stage are checked against the config they were trained with, so that a
wrong or damaged file is reported here and does not show only as a bad loss.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from vit.build import build_model
from vit.config import Config, ViTConfig
from vit.errors import BadModel
from vit.init import init_tensor_
from vit.relative import resize_bias_table
from vit.resample import Convention, resize_patch_kernel, resize_position_table

# Fields that matter only in training; they may differ without changing the weights.
_FREE = {"dropout", "drop_path", "drop_path_constant", "head_bias_init", "layer_scale_init"}
# Fields whose change is handled below.
_ADAPTED = {"image_size", "patch_size", "drop_rest", "in_channels", "pos_embed_prefix",
            "num_classes", "head"}  # fmt: skip
# Fields without tensors of their own: the weights load, but the model computes something else.
_NOTED = {"gelu", "norm_eps"}


def adapt_state_dict(
    weights: Mapping[str, Tensor],
    source: Config,
    target: Config,
    *,
    convention: Convention = "align-corners",
    reset_head: bool = False,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Turn `source`'s weights into `target`'s; return them and one line per change.

    The position table is resized to the new grid by `convention` (the paper's by default), the
    patch kernel to the new patch size by the pseudo-inverse, and its channels as in timm: a grey
    image gives the same result as it did as RGB. A head of another kind or number of classes is
    reset: zero kernel, bias `target.head_bias_init`. `reset_head` resets any head, for another task
    with the same number of classes.
    Raises BadModel for unknown, missing or misshapen keys and for changes that cannot be made.
    """
    check_state_dict(weights, source)
    changes = _other_function(source, target)
    adapted = dict(weights)
    if isinstance(source, ViTConfig) and isinstance(target, ViTConfig):
        changes += _adapt_patches(adapted, source, target)
        changes += _adapt_channels(adapted, source, target)
        changes += _adapt_prefix_rows(adapted, source, target)
        changes += _adapt_positions(adapted, source, target, convention)
    changes += _adapt_head(adapted, source, target, reset=reset_head)
    check_state_dict(adapted, target)
    return adapted, tuple(changes)


def check_state_dict(weights: Mapping[str, Tensor], config: Config) -> None:
    """Raise BadModel if a key is unknown, missing or misshapen for `config`'s model."""
    expected = build_model(config, device="meta").state_dict()
    problems = [f"unknown {name}" for name in weights.keys() - expected.keys()]
    problems += [f"missing {name}" for name in expected.keys() - weights.keys()]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, wanted {tuple(expected[name].shape)}"
        for name in weights.keys() & expected.keys()
        if weights[name].shape != expected[name].shape
    ]
    if problems:
        # Shapes first: they often explain the missing and unknown keys.
        problems.sort(key=lambda problem: (problem.startswith(("unknown", "missing")), problem))
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise BadModel(f"weights do not fit the model: {'; '.join(problems[:3])}{more}")


def _other_function(source: Config, target: Config) -> list[str]:
    """One line per difference that makes the same weights compute something else.

    Raises BadModel for differences that need different weights.
    """
    if source.family != target.family:
        raise BadModel(f"cannot turn a {source.family} into a {target.family}")
    different = {
        field.name: (getattr(source, field.name), getattr(target, field.name))
        for field in fields(source)
        if field.name not in _FREE | _ADAPTED
        and getattr(source, field.name) != getattr(target, field.name)
    }
    if others := [name for name in different if name not in _NOTED]:
        turns = ", ".join(
            f"{name} {different[name][0]} into {different[name][1]}" for name in others
        )
        asked = [_option(name, different[name][0]) for name in others]
        option = asked[0].partition(" ")[0] if len(asked) == 1 else "the options of these fields"
        raise BadModel(
            f"cannot turn {turns}: the weights are of another model - leave {option} out, or give"
            f" {' '.join(asked)}"
        )
    return [f"{name} {old} -> {new}" for name, (old, new) in different.items()]


def _option(name: str, value: Any) -> str:
    """The command line option that sets a field to this value."""
    option = f"--stage.model.{name.replace('_', '-')}"
    if isinstance(value, bool):
        return option if value else f"--stage.model.no-{name.replace('_', '-')}"
    return f"{option} {' '.join(str(v) for v in value) if isinstance(value, tuple) else value}"


def _adapt_patches(weights: dict[str, Tensor], source: ViTConfig, target: ViTConfig) -> list[str]:
    old, new = source.patch_size, target.patch_size
    if old == new:
        return []
    if source.stem_blocks:
        raise BadModel(
            f"cannot turn patch_size {old} into {new} in a hybrid: its patches are cut from a"
            " feature map"
        )
    name = "patch_embed.proj.weight"
    weights[name] = resize_patch_kernel(weights[name], new)
    return [f"patch_embed {old}x{old} -> {new}x{new}"]


def _adapt_channels(weights: dict[str, Tensor], source: ViTConfig, target: ViTConfig) -> list[str]:
    """Sum the kernel's channels into one, or repeat and scale them: a grey image gives the same."""
    old, new = source.in_channels, target.in_channels
    if old == new:
        return []
    if source.stem_blocks:
        raise BadModel(
            f"cannot turn in_channels {old} into {new} in a hybrid: only a plain patch embedding"
            " can be adapted"
        )
    name = "patch_embed.proj.weight"
    kernel = weights[name]  # [D, C, p, p]
    if new == 1:
        weights[name] = kernel.sum(dim=1, keepdim=True)
        return [f"patch_embed: {old} channels summed into 1"]
    repeats = -(-new // old)
    weights[name] = kernel.repeat(1, repeats, 1, 1)[:, :new] * (old / new)
    return [f"patch_embed: {old} channels repeated to {new}"]


def _adapt_prefix_rows(
    weights: dict[str, Tensor], source: ViTConfig, target: ViTConfig
) -> list[str]:
    """Add the prefix tokens' position rows to the tokens, or append rows of zeros: both exact."""
    prefix = source.num_prefix_tokens
    if (
        source.pos_embed_prefix == target.pos_embed_prefix
        or source.pos_embed != "learned-1d"
        or not prefix
    ):
        return []
    table = weights["pos_embed"]
    if target.pos_embed_prefix:
        zeros = table.new_zeros(1, prefix, table.shape[2])
        weights["pos_embed"] = torch.cat([zeros, table], dim=1)
        return [f"pos_embed: {prefix} prefix rows of zeros added"]
    at = 0
    for name in ("cls_token", "dist_token", "reg_token"):
        if name in weights:
            length = weights[name].shape[1]
            weights[name] = weights[name] + table[:, at : at + length]
            at += length
    weights["pos_embed"] = table[:, prefix:]
    return [f"pos_embed: {prefix} prefix rows added to their tokens"]


def _adapt_positions(
    weights: dict[str, Tensor], source: ViTConfig, target: ViTConfig, convention: Convention
) -> list[str]:
    old, new = source.grid_size, target.grid_size
    if old == new or source.pos_embed in ("none", "sincos-2d"):
        return []
    if source.pos_embed == "relative":
        raise BadModel(
            f"pos_embed 'relative' cannot be resized from a {old[0]}x{old[1]} grid to "
            f"{new[0]}x{new[1]}: its distances count along the rows of the grid"
        )
    changes = [f"pos_embed {old[0]}x{old[1]} -> {new[0]}x{new[1]}"]
    if source.pos_embed == "relative-bias":
        for name in [n for n in weights if n.endswith("relative_position_bias_table")]:
            weights[name] = resize_bias_table(weights[name], source, target, convention)
        return changes
    if source.pos_embed == "learned-1d":
        weights["pos_embed"] = resize_position_table(
            weights["pos_embed"],
            old,
            new,
            num_prefix_tokens=target.num_prefix_tokens if target.pos_embed_prefix else 0,
            convention=convention,
        )
        return changes
    for axis, name in enumerate(("pos_embed_y", "pos_embed_x")):
        line = weights[name].flatten(1, 2)  # [1, side, D/2]
        line = resize_position_table(line, (old[axis], 1), (new[axis], 1), convention=convention)
        weights[name] = line.unsqueeze(2 - axis)
    return changes


def _adapt_head(
    weights: dict[str, Tensor], source: Config, target: Config, *, reset: bool
) -> list[str]:
    old, new = head_of(source), head_of(target)
    if old == new and not (reset and target.num_classes):
        return []
    changes = [f"head {a} -> {b}: reset" for a, b in zip(old, new, strict=True) if a != b]
    changes = changes or [f"head of {target.num_classes} classes: reset"]
    stale = ("head.", "head_dist.", *(() if old[0] == new[0] else ("pre_logits.",)))
    for name in [name for name in weights if name.startswith(stale)]:
        del weights[name]
    generator = torch.Generator().manual_seed(0)
    for name, parameter in build_model(target, device="meta").named_parameters():
        if name.startswith(stale):
            weights[name] = torch.empty(parameter.shape)
            init_tensor_(name, weights[name], target, generator)
    return changes


def head_of(config: Config) -> tuple[str, int]:
    """Kind and number of classes of a model's head: a head fits another model if both are equal."""
    return config.head if isinstance(config, ViTConfig) else "linear", config.num_classes


def separate_gates(tensors: dict[str, Tensor]) -> None:
    """Split the inner matrix of each SwiGLU into its gate and what is gated, in place."""
    for name in [name for name in tensors if ".mlp.fc1." in name]:
        for part, rows in zip("gx", tensors.pop(name).chunk(2), strict=True):
            tensors[name.replace("fc1", f"fc1_{part}")] = rows
