"""The layouts that can be read. Each is recognised by a tensor name that no other layout has."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vit.errors import BadModel
from vit.importers import (
    bit,
    flax,
    hugging_face,
    mmpretrain,
    open_clip,
    timm_layout,
    torchvision,
    towers,
)
from vit.importers.rules import Rule

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
_AS_IS = (Rule(r"(.+)", r"\1"),)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to name tensors, and properties of its models unless a file says otherwise."""

    name: str
    marker: str
    """Pattern of a tensor name that occurs in this layout and in no other."""
    rules: tuple[Rule, ...]
    gelu: Literal["tanh", "exact"] | None
    """Form of GELU of its models; None if they differ."""
    norm_eps: float | None
    mean: tuple[float, ...] | None = None
    """Mean that its models subtract from pixels in [0, 1]; None if they differ. Our models expect
    pixels in [-1, 1], that is mean and std 0.5."""
    std: tuple[float, ...] | None = None
    family: Literal["vit", "bit"] = "vit"
    pool_is_shown: bool = True
    """Whether a class token in the file means that the head reads it."""


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="vision_transformer/big_vision",
        marker=r"Transformer/encoder_norm/scale",
        rules=flax.RULES,
        gelu="tanh",
        norm_eps=1e-6,
        mean=_HALF,
        std=_HALF,
    ),
    Layout(
        name="BiT",
        marker=r"resnet/root_block/standardized_conv2d(_\d+)?/kernel",
        rules=bit.RULES,
        gelu=None,
        norm_eps=None,
        mean=_HALF,
        std=_HALF,
        family="bit",
    ),
    Layout(
        name="BiT of big_vision",
        marker=r"root_block/conv_root/kernel",
        rules=bit.RULES,
        gelu=None,
        norm_eps=None,
        mean=_HALF,
        std=_HALF,
        family="bit",
    ),
    Layout(
        name="Hugging Face ViT",
        marker=r"(?:vit\.|deit\.|dinov2\.|dinov2_with_registers\.|beit\.|data2vec_vision\.)?"
        r"embeddings\.patch_embeddings\.projection\.weight",
        rules=hugging_face.RULES,
        gelu="exact",
        norm_eps=1e-12,
    ),
    Layout(
        name="Hugging Face CLIP or SigLIP",
        marker=r"embeddings\.patch_embedding\.weight",
        rules=towers.CLIP,
        gelu=None,
        norm_eps=None,
    ),
    Layout(
        name="Hugging Face DINOv3",
        marker=r"embeddings\.patch_embeddings\.weight",
        rules=towers.DINOV3,
        gelu="exact",
        norm_eps=1e-5,
    ),
    Layout(
        name="open_clip",
        marker=r"class_embedding",
        rules=open_clip.RULES,
        gelu=None,
        norm_eps=1e-5,
        mean=open_clip.MEAN,
        std=open_clip.STD,
    ),
    Layout(
        name="torchvision ViT",
        marker=r"encoder\.layers\.encoder_layer_0\.ln_1\.weight",
        rules=torchvision.RULES,
        gelu="exact",
        norm_eps=1e-6,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    ),
    Layout(
        name="mmpretrain ViT",
        marker=r"layers\.0\.attn\.qkv\.weight",
        rules=mmpretrain.RULES,
        gelu="exact",
        norm_eps=None,
        pool_is_shown=False,
    ),
    Layout(
        name="timm ViT",
        marker=r"blocks\.0\.attn\.(?:qkv|q_proj)\.weight",
        rules=timm_layout.RULES,
        gelu=None,
        norm_eps=None,
        pool_is_shown=False,
    ),
    Layout(
        name="timm BiT",
        marker=r"stages\.0\.blocks\.0\.norm1\.weight",
        rules=_AS_IS,
        gelu=None,
        norm_eps=None,
        mean=_HALF,
        std=_HALF,
        family="bit",
    ),
)


def sniff(names: Iterable[str]) -> Layout:
    """Recognise the layout of a checkpoint by the names of its tensors.

    Raises BadModel with the first names if none of `LAYOUTS` fits, or more than one.
    """
    names = list(names)
    fits = [
        layout
        for layout in LAYOUTS
        if any(re.fullmatch(layout.marker, name) is not None for name in names)
    ]
    if len(fits) != 1:
        known = ", ".join(layout.name for layout in LAYOUTS)
        which = " and ".join(layout.name for layout in fits) or "none"
        raise BadModel(
            f"layout not recognised: wanted one of {known}; {which} fits {sorted(names)[:5]} ..."
        )
    return fits[0]
