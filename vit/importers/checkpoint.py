"""`import_checkpoint`: from a file in anybody's layout to weights that fit a config.

What the tensors show of their own model (classes, head, patch size, ...) is taken from them; the
grid of a position table they do not show, so a table of another length needs `source_image_size`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vit.config import BiTConfig, Config, ViTConfig
from vit.errors import BadModel
from vit.importers.files import Settings, read_checkpoint
from vit.importers.layouts import Layout, sniff
from vit.importers.rules import translate
from vit.resample import Convention
from vit.surgery import adapt_state_dict

# Where big_vision's training loop and older Flax put the weights, next to the optimiser's state.
_PREFIXES = ("params/img/", "params/", "opt/target/", "target/", "img/")


def import_checkpoint(
    path: str | PathLike[str],
    config: Config,
    *,
    source_image_size: int | tuple[int, int] | None = None,
    convention: Convention = "align-corners",
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights for `config`'s model from the checkpoint at `path`, and a line for each change.

    `path` is a file (.npz .safetensors .pt .pth .bin) or a Hugging Face or timm folder, whose
    config.json is read too. Weights come in float32 and take pixels in [-1, 1]: a checkpoint for
    other means and deviations gets another first layer, which is exact.
    Raises BadModel naming every tensor that is unknown, missing or misshapen, and if the position
    table is of a size that neither `config` nor `source_image_size` explains.
    """
    tensors, settings = read_checkpoint(Path(path))
    tensors, changes = _without_training_state(tensors)
    layout = sniff(tensors)
    try:
        weights = translate(_unstacked(tensors), layout.rules)
        source = _source_config(weights, config, layout, settings, source_image_size)
        changes += _fold_pixels(weights, layout, settings)
        weights, adapted = adapt_state_dict(weights, source, config, convention=convention)
    except BadModel as error:
        raise BadModel(f"{path} ({layout.name}): {error}") from error
    if isinstance(config, ViTConfig) and not (layout.gelu or settings.gelu):
        changes.append(f"gelu {config.gelu} taken: the file does not say, timm's default is exact")
    return weights, (f"layout {layout.name}, {len(tensors)} tensors", *changes, *adapted)


def _without_training_state(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    for prefix in _PREFIXES:
        inner = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if inner:
            left = len(tensors) - len(inner)
            return inner, [f"{left} tensors outside {prefix} left"] if left else []
    return tensors, []


def _unstacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """big_vision may scan over layers: one tensor [depth, ...] for all blocks; take it apart."""
    flat: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"Transformer/encoderblock/(.+)", name):
            parts = {f"Transformer/encoderblock_{i}/{match[1]}": t for i, t in enumerate(tensor)}
            flat.update(parts)
        else:
            flat[name] = tensor
    return flat


def _source_config(
    weights: Mapping[str, Tensor],
    config: Config,
    layout: Layout,
    settings: Settings,
    image_size: int | tuple[int, int] | None,
) -> Config:
    """The checkpoint's own config, as far as it shows; the rest is `config`'s."""
    if isinstance(config, BiTConfig):
        head = weights.get("head.fc.weight")
        return replace(config, num_classes=0 if head is None else head.shape[0])
    head, registers = weights.get("head.weight"), weights.get("reg_token")
    pool = "map" if "attn_pool.latent" in weights else "gap"
    kernel = weights.get("patch_embed.proj.weight")
    shown: dict[str, Any] = {
        "num_classes": 0 if head is None else head.shape[0],
        "head": "mlp" if "pre_logits.fc.weight" in weights else "linear",
        "registers": 0 if registers is None else registers.shape[1],
        "pool": "token" if "cls_token" in weights else pool,
        "fc_norm": "fc_norm.weight" in weights,
        "patch_size": config.patch_size if kernel is None else kernel.shape[-1],
        "gelu": settings.gelu or layout.gelu or config.gelu,
        "norm_eps": settings.norm_eps or layout.norm_eps or config.norm_eps,
        "image_size": image_size or settings.image_size or config.image_size,
    }
    table = weights.get("pos_embed")
    if table is None:
        return replace(config, **shown)
    source = replace(config, pos_embed="learned-1d", **shown)
    rows, patches = table.shape[1], source.grid_size[0] * source.grid_size[1]
    if rows not in (patches, patches + source.num_prefix_tokens):
        raise BadModel(
            f"position table of {rows} rows, wanted {patches} (+ {source.num_prefix_tokens}) at "
            f"{source.image_size} pixels: pass the checkpoint's own size as source_image_size"
        )
    return replace(source, pos_embed_prefix=rows != patches)


def _fold_pixels(weights: dict[str, Tensor], layout: Layout, settings: Settings) -> list[str]:
    """Make the first layer take pixels in [-1, 1] instead of (pixel - mean) / std, exactly."""
    mean, std = settings.mean or layout.mean, settings.std or layout.std
    if all(value == 0.5 for value in (*mean, *std)):
        return []
    name, bias = "patch_embed.proj.weight", "patch_embed.proj.bias"
    if name not in weights or any("backbone" in key for key in weights):
        raise BadModel(f"pixels of mean {mean} and std {std} cannot be folded into this stem")
    scale = torch.tensor([0.5 / s for s in std], dtype=torch.float64)
    shift = torch.tensor([(0.5 - m) / s for m, s in zip(mean, std, strict=True)])
    kernel = weights[name].double()
    weights[bias] = (weights[bias] + (kernel.sum((2, 3)) @ shift.double())).float()
    weights[name] = (kernel * scale[:, None, None]).float()
    return [f"patch_embed: takes [-1, 1] instead of mean {mean} and std {std}"]
