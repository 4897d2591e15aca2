"""A model of ours as one of transformers': config.json and tensors, for `vit.export`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vit.config import Config, ViTConfig
from vit.errors import BadModel
from vit.hugging_face_families import (
    CLIP,
    DINOV2,
    DINOV2_REGISTERS,
    DINOV3,
    SIGLIP,
    SIGLIP_TOWER,
    Family,
    family_of,
)
from vit.hugging_face_names import separate
from vit.surgery import adapt_state_dict, separate_gates

_GELU = {"exact": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}


def hugging_face_model(
    weights: Mapping[str, Tensor], config: Config
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Content of config.json but for the names of classes, and the tensors under their names.

    Raises BadModel if transformers has no class for the model.
    """
    if not isinstance(config, ViTConfig):
        raise BadModel(f"Hugging Face's ViT has no place for a {config.family}")
    family = family_of(config)
    family.check(config)
    # DINOv2 has no rows of positions for its registers: surgery adds such rows to the tokens.
    with_rows = replace(config, pos_embed_prefix=family is not DINOV2_REGISTERS)
    tensors, _ = adapt_state_dict(weights, config, with_rows)
    family.fit(tensors, config)
    _rearrange(tensors, family, config)
    gated = config.mlp == "swiglu"
    named = {family.names.of(name, gated=gated): each for name, each in separate(tensors)}
    return _described(family, config), named


def _rearrange(tensors: dict[str, Tensor], family: Family, config: ViTConfig) -> None:
    """Bring tensors into the family's shapes, in place."""
    width = config.width
    if family in (SIGLIP, SIGLIP_TOWER, CLIP):
        for name in {"cls_token", "pos_embed"} & tensors.keys():
            tensors[name] = tensors[name].flatten(0, -2)  # [1, T, D] -> [T, D]
        if "cls_token" in tensors:
            tensors["cls_token"] = tensors["cls_token"][0]
    if family in (DINOV2, DINOV2_REGISTERS) and config.num_classes:
        # Its head also reads the mean of the patches, here with weights of zero.
        tensors["head.weight"] = F.pad(tensors["head.weight"], (0, width))
    if family is DINOV2_REGISTERS:
        tensors["pos_embed"] = F.pad(tensors["pos_embed"], (0, 0, 1, 0))  # of the class token
        tensors["mask_token"] = torch.zeros(1, width)  # of pre-training; it has no model without
    if family is DINOV3:
        tensors["mask_token"] = torch.zeros(1, 1, width)
        if not config.registers:
            tensors["reg_token"] = torch.zeros(1, 0, width)
        if config.mlp == "swiglu":
            separate_gates(tensors)


def _described(family: Family, config: ViTConfig) -> dict[str, Any]:
    size = list(config.image_hw)
    named = {
        "architectures": [family.classifier if config.num_classes else family.backbone],
        "model_type": family.model_type,
        "dtype": "float32",
    }
    vision = {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "image_size": size[0] if size[0] == size[1] else size,
        "patch_size": config.patch_size,
        "num_channels": config.in_channels,
        "hidden_act": _GELU[config.gelu],
        "layer_norm_eps": config.norm_eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
    } | family.describe(config)
    return named | ({"vision_config": vision} if family is SIGLIP else vision)
