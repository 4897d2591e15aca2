"""Fit the weights of one model to another: new resolution, new classes.

What a stage hands on is checked against the config it was trained with, so a wrong or damaged file
is named here and not found out by its loss.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields

import torch
from torch import Tensor

from vit.config import Config
from vit.model import build_model, init_tensor_
from vit.resample import Convention, resize_position_table

# Fields that only training sees; the weights are the same whatever they are.
_FREE = {"dropout", "drop_path", "head_bias_init"}
# Fields whose change is handled below.
_ADAPTED = {"image_size", "num_classes", "head"}
# Fields without tensors of their own: the weights load, yet the function is another one.
_NOTED = {"gelu", "norm_eps"}


def adapt_state_dict(
    weights: Mapping[str, Tensor],
    source: Config,
    target: Config,
    *,
    convention: Convention = "align-corners",
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Turn `source`'s weights into `target`'s; returns them and a line for each thing changed.

    The position table follows the grid, by the paper's convention unless told otherwise. A head
    of other classes or another kind is reset: zero kernel, bias `target.head_bias_init`.
    Raises ValueError for unknown, missing or misshapen keys and for changes no surgery can make.
    """
    check_state_dict(weights, source)
    changes: list[str] = []
    for field in fields(source):
        old, new = getattr(source, field.name), getattr(target, field.name)
        if old == new or field.name in _FREE | _ADAPTED:
            continue
        if field.name not in _NOTED:
            raise ValueError(f"cannot turn {field.name} {old} into {new}: other weights altogether")
        changes.append(f"{field.name} {old} -> {new}")

    adapted = dict(weights)
    changes += _adapt_positions(adapted, source, target, convention)
    changes += _adapt_head(adapted, source, target)
    check_state_dict(adapted, target)
    return adapted, tuple(changes)


def check_state_dict(weights: Mapping[str, Tensor], config: Config) -> None:
    """Raise ValueError that names every unknown, missing or misshapen key of `config`'s model."""
    expected = build_model(config, device="meta").state_dict()
    problems = [f"unknown {name}" for name in weights.keys() - expected.keys()]
    problems += [f"missing {name}" for name in expected.keys() - weights.keys()]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, wanted {tuple(expected[name].shape)}"
        for name in weights.keys() & expected.keys()
        if weights[name].shape != expected[name].shape
    ]
    if problems:
        raise ValueError("weights do not fit the model: " + "; ".join(sorted(problems)))


def _adapt_positions(
    weights: dict[str, Tensor], source: Config, target: Config, convention: Convention
) -> list[str]:
    old, new = source.grid_size, target.grid_size
    if old == new or source.pos_embed in ("none", "sincos-2d"):
        return []
    if source.pos_embed == "relative":
        raise ValueError(
            f"pos_embed 'relative' counts distances along the rows of a {old[0]}x{old[1]} grid; "
            f"they mean something else on {new[0]}x{new[1]}"
        )
    grids = f"{old[0]}x{old[1]} -> {new[0]}x{new[1]}"
    if source.pos_embed == "learned-1d":
        weights["pos_embed"] = resize_position_table(
            weights["pos_embed"],
            old,
            new,
            num_prefix_tokens=source.num_prefix_tokens if source.pos_embed_prefix else 0,
            convention=convention,
        )
        return [f"pos_embed {grids}"]
    for name, old_side, new_side in (
        ("pos_embed_y", old[0], new[0]),
        ("pos_embed_x", old[1], new[1]),
    ):
        line = weights[name].flatten(1, 2)  # [1, side, D/2]
        line = resize_position_table(line, (old_side, 1), (new_side, 1), convention=convention)
        weights[name] = line.unsqueeze(2 if name == "pos_embed_y" else 1)
    return [f"pos_embed {grids}"]


def _adapt_head(weights: dict[str, Tensor], source: Config, target: Config) -> list[str]:
    if (source.num_classes, source.head) == (target.num_classes, target.head):
        return []
    changes: list[str] = []
    if source.head != target.head:
        changes.append(f"head {source.head} -> {target.head}: reset")
    if source.num_classes != target.num_classes:
        changes.append(f"head {source.num_classes} -> {target.num_classes}: reset")
    for name in [n for n in weights if n.startswith("head.")]:
        del weights[name]
    if source.head != target.head:
        for name in [n for n in weights if n.startswith("pre_logits.")]:
            del weights[name]
    weights.update(_fresh(target, lambda name: name not in weights and _is_head(name)))
    return changes


def _is_head(name: str) -> bool:
    return name.startswith(("head.", "pre_logits."))


def _fresh(config: Config, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Newly initialised tensors of `config`'s model, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    fresh: dict[str, Tensor] = {}
    for name, parameter in build_model(config, device="meta").named_parameters():
        if wanted(name):
            fresh[name] = torch.empty(parameter.shape)
            init_tensor_(name, fresh[name], config, generator)
    return fresh
