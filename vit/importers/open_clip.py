"""Image towers of open_clip and of OpenAI's CLIP under their own names: tensors and config file.

The text tower and the projection into the common space are left out. SigLIP's and EVA's towers in
open_clip are timm's models under `visual.trunk.`, whose names `timm_layout` knows.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vit.importers.config_values import pair
from vit.importers.crops import Crop, timm_crop
from vit.importers.rules import Rule
from vit.importers.towers import table, token

_LEAF = r"\.(weight|bias)"
_BLOCK = r"transformer\.resblocks\.(\d+)"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 64
"""Channels of a head where open_clip's config file says nothing else."""


def _class_token(embedding: Tensor) -> Tensor:
    return token(embedding.flatten())


RULES: tuple[Rule, ...] = (
    Rule(r"class_embedding", r"cls_token", _class_token),
    Rule(r"positional_embedding", r"pos_embed", table),
    Rule(r"conv1\.weight", r"patch_embed.proj.weight"),
    Rule(rf"ln_pre{_LEAF}", r"norm_pre.\1"),
    Rule(rf"{_BLOCK}\.ln_([12]){_LEAF}", r"blocks.\1.norm\2.\3"),
    Rule(rf"{_BLOCK}\.attn\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
    Rule(rf"{_BLOCK}\.attn\.out_proj{_LEAF}", r"blocks.\1.attn.proj.\2"),
    Rule(rf"{_BLOCK}\.mlp\.c_fc{_LEAF}", r"blocks.\1.mlp.fc1.\2"),
    Rule(rf"{_BLOCK}\.mlp\.c_proj{_LEAF}", r"blocks.\1.mlp.fc2.\2"),
    Rule(rf"{_BLOCK}\.ls_([12])\.gamma", r"blocks.\1.ls\2.gamma"),
    Rule(rf"ln_post{_LEAF}", r"norm.\1"),
)


def vision_of(config: Mapping[str, Any]) -> tuple[dict[str, Any], Crop, Mapping[str, Any]] | None:
    """What `open_clip_config.json` says: values by the names of `Settings`, crop, and pixels.

    None if the image tower is a model of timm's, which this file hardly describes.
    """
    model: Mapping[str, Any] = config["model_cfg"]
    vision: Mapping[str, Any] = model["vision_cfg"]
    if "timm_model_name" in vision:
        return None
    pixels: Mapping[str, Any] = config.get("preprocess_cfg") or {}
    size, width = vision.get("image_size", 224), vision.get("width", 768)
    mode = "squash" if pixels.get("resize_mode") == "squash" else "center"
    crop = timm_crop(
        {"crop_pct": 1.0, "crop_mode": mode, "interpolation": pixels.get("interpolation")}, None
    )
    said = {
        "image_size": pair(size),
        "width": width,
        "heads": width // vision.get("head_width", HEAD_WIDTH),
        "pool": "token",
        "gelu": "quick" if model.get("quick_gelu") else "exact",
        "norm_eps": 1e-5,
    }
    return said, crop, pixels
