"""Models after the paper's, at 224 px with 1,000 classes: what each changed, then its sizes.

The names are those of the checkpoints; the head reads what its authors' does. In EVA-02 it reads
the mean of the patches, so the class token is a register here.
"""

from dataclasses import replace
from typing import Any

from vit.config import ViTConfig
from vit.sizes import SIZES

_TI, _S, _B, _L, _H = (SIZES[name] for name in ("ti", "s", "b", "l", "h"))
_SO400M = ViTConfig(width=1152, depth=27, heads=16, mlp_dim=4304)  # arXiv:2305.13035
_DINOV2_G = ViTConfig(width=1536, depth=40, heads=24, mlp_dim=4096, mlp="swiglu")
_DINOV3_H = replace(_H, heads=20, mlp="swiglu")
_DINOV3_7B = ViTConfig(width=4096, depth=40, heads=32, mlp_dim=8192, mlp="swiglu")

_DISTILLED: dict[str, Any] = {"gelu": "exact", "distilled": True}  # arXiv:2012.12877
_DEIT3: dict[str, Any] = {  # arXiv:2204.07118
    "gelu": "exact",
    "layer_scale": True,
    "pos_embed_prefix": False,
}
_CLIP: dict[str, Any] = {  # arXiv:2103.00020
    "pre_norm": True,
    "patch_bias": False,
    "norm_eps": 1e-5,
    "gelu": "quick",
}
_SIGLIP2: dict[str, Any] = {"pool": "map"}  # arXiv:2502.14786
_DINOV2: dict[str, Any] = {"patch_size": 14, "gelu": "exact", "layer_scale": True}  # 2304.07193
_REGISTERS: dict[str, Any] = _DINOV2 | {"registers": 4, "pos_embed_prefix": False}  # 2309.16588
_DINOV3: dict[str, Any] = {  # arXiv:2508.10104, as timm has it: without biases of q, k and v
    "pos_embed": "none",
    "rotary": "dinov3",
    "rotary_temperature": 100.0,
    "registers": 4,
    "layer_scale": True,
    "qkv_bias": "none",
    "norm_eps": 1e-5,
    "gelu": "exact",
}
_EVA02: dict[str, Any] = {  # arXiv:2303.11331
    "patch_size": 14,
    "rotary": "axial",
    "rotary_reference": 16,
    "mlp": "swiglu",
    "qkv_bias": "no-key",
    "pool": "gap",
    "registers": 1,
    "fc_norm": True,
}

LATER: dict[str, ViTConfig] = {
    "deit_distilled_ti16": replace(_TI, **_DISTILLED),
    "deit_distilled_s16": replace(_S, **_DISTILLED),
    "deit_distilled_b16": replace(_B, **_DISTILLED),
    "deit3_s16": replace(_S, **_DEIT3),
    "deit3_b16": replace(_B, **_DEIT3),
    "deit3_l16": replace(_L, **_DEIT3),
    "deit3_h14": replace(_H, patch_size=14, **_DEIT3),
    "clip_b32": replace(_B, patch_size=32, **_CLIP),
    "clip_b16": replace(_B, **_CLIP),
    "clip_l14": replace(_L, patch_size=14, **_CLIP),
    "siglip2_b16": replace(_B, **_SIGLIP2),
    "siglip2_l16": replace(_L, **_SIGLIP2),
    "siglip2_so400m14": replace(_SO400M, patch_size=14, **_SIGLIP2),
    "siglip2_so400m16": replace(_SO400M, **_SIGLIP2),
    "dinov2_s14": replace(_S, **_DINOV2),
    "dinov2_b14": replace(_B, **_DINOV2),
    "dinov2_l14": replace(_L, **_DINOV2),
    "dinov2_g14": replace(_DINOV2_G, **_DINOV2),
    "dinov2_reg_s14": replace(_S, **_REGISTERS),
    "dinov2_reg_b14": replace(_B, **_REGISTERS),
    "dinov2_reg_l14": replace(_L, **_REGISTERS),
    "dinov2_reg_g14": replace(_DINOV2_G, **_REGISTERS),
    "dinov3_s16": replace(_S, **_DINOV3),
    "dinov3_s_plus_16": replace(_S, mlp="swiglu", **_DINOV3),
    "dinov3_b16": replace(_B, **_DINOV3),
    "dinov3_l16": replace(_L, **_DINOV3),
    "dinov3_h_plus_16": replace(_DINOV3_H, **_DINOV3),
    "dinov3_7b_16": replace(_DINOV3_7B, **_DINOV3),
    "eva02_ti14": replace(_TI, mlp_dim=512, **_EVA02),
    "eva02_s14": replace(_S, mlp_dim=1024, **_EVA02),
    "eva02_b14": replace(_B, mlp_dim=2048, mlp_norm=True, **_EVA02),
    "eva02_l14": replace(_L, mlp_dim=2730, mlp_norm=True, **_EVA02),
}
