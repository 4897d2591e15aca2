"""What timm calls a model of ours: architecture, arguments and tensor names, for `vit.export`.

timm's VisionTransformer has most parts; its Eva has rotary positions, and biases of queries and
values without one of keys; its Beit has relative positions. A name of timm's also stands for what
no argument can say: the epsilon, a SwiGLU, a second head.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vit.config import BiTConfig, Config, ViTConfig
from vit.errors import BadModel
from vit.surgery import separate_gates

_BIT: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 4, 6, 3), 1): "resnetv2_50x1_bit",
    ((3, 4, 6, 3), 3): "resnetv2_50x3_bit",
    ((3, 4, 23, 3), 1): "resnetv2_101x1_bit",
    ((3, 4, 23, 3), 3): "resnetv2_101x3_bit",
    ((3, 8, 36, 3), 2): "resnetv2_152x2_bit",
    ((3, 8, 36, 3), 4): "resnetv2_152x4_bit",
}
_VIT = {
    (192, 12, 3, 768): ("tiny", (16,)),
    (384, 12, 6, 1536): ("small", (16, 32)),
    (768, 12, 12, 3072): ("base", (8, 16, 32)),
    (1024, 24, 16, 4096): ("large", (14, 16, 32)),
    (1280, 32, 16, 5120): ("huge", (14,)),
}
"""Names of timm's plain models and their patches, by width, depth, heads and mlp_dim."""
_POSITIONS = ("learned-1d", "relative-bias", "none")
_GELU = {"tanh": "gelu_tanh", "exact": "gelu", "quick": "quick_gelu"}


def timm_arguments(config: Config) -> tuple[str, dict[str, Any]]:
    """Name of a timm model, and the arguments that turn it into `config`'s.

    Raises BadModel if timm has no such model.
    """
    if isinstance(config, BiTConfig):
        key = (config.blocks, config.width_factor)
        if key not in _BIT or config.in_channels != 3:
            raise BadModel(f"timm has no BiT with blocks {key[0]} and width_factor {key[1]}")
        return _BIT[key], {}
    _refuse(
        "Beit" if is_beit(config) else "Eva" if is_eva(config) else "ViT",
        head=config.head == "mlp" and config.head,
        pos_embed=config.pos_embed not in _POSITIONS and config.pos_embed,
        stem_blocks=config.stem_blocks,
    )
    if is_beit(config):
        return _beit(config)
    shared = _sizes(config) | {
        "class_token": config.pool == "token",
        "no_embed_class": not config.pos_embed_prefix,
        "qk_norm": config.qk_norm,
    }
    if is_eva(config):
        return _eva(config, shared)
    return _vision_transformer(config, shared)


def is_eva(config: ViTConfig) -> bool:
    """Whether a model is an Eva in timm and no VisionTransformer."""
    return config.rotary != "none" or config.qkv_bias == "no-key"


def is_beit(config: ViTConfig) -> bool:
    """Whether a model is a Beit in timm."""
    return config.pos_embed == "relative-bias"


def timm_tensors(weights: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The weights under the names of the model that `timm_arguments` describes."""
    tensors = dict(weights)
    if not isinstance(config, ViTConfig):
        return tensors
    if not config.patch_bias and not config.pre_norm:
        tensors["patch_embed.proj.bias"] = torch.zeros(config.width)
    if is_beit(config) and config.pool == "gap":
        tensors["cls_token"] = tensors.pop("reg_token")
    if not (is_eva(config) or is_beit(config)):
        return tensors
    for name in list(tensors):
        if name.endswith((".ls1.gamma", ".ls2.gamma")):
            block = name.removesuffix(".gamma")
            tensors[f"{block[:-3]}gamma_{block[-1]}"] = tensors.pop(name)
    if config.mlp == "swiglu" and config.mlp_norm:
        separate_gates(tensors)
    return tensors


def _vision_transformer(config: ViTConfig, shared: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    _refuse(
        "ViT",
        patch_bias=config.pre_norm and config.patch_bias,
        registers=config.distilled and config.registers,
        pos_embed_prefix=config.distilled and not config.pos_embed_prefix and "off",
    )
    architecture = _plain_name(config)
    if config.distilled:
        architecture = "deit_base_distilled_patch16_224"
    elif config.mlp == "swiglu":
        architecture = "vit_giant_patch14_dinov2"
    elif config.norm_eps == 1e-5:
        architecture = "vit_base_patch16_clip_224"
    arguments: dict[str, Any] = {
        "mlp_ratio": _ratio(config, 2 if config.mlp == "swiglu" else 1),
        "proj_bias": config.proj_bias,
        "pool_include_prefix": config.pool == "map",
        "pos_embed": "learn" if config.pos_embed == "learned-1d" else "none",
        "fc_norm": config.fc_norm,
        "reg_tokens": config.registers,
        "pre_norm": config.pre_norm,
        "scale_attn_norm": config.attn_norm,
        "scale_mlp_norm": config.mlp_norm,
    }
    if config.distilled:  # these two are not for its constructor to choose
        del arguments["reg_tokens"], shared["no_embed_class"]
    if config.mlp == "gelu":
        arguments["act_layer"] = _GELU[config.gelu]
    if config.norm == "rms":
        arguments["norm_layer"] = "rmsnorm"
    return architecture, shared | arguments


def _plain_name(config: ViTConfig) -> str:
    """Name of a plain ViT of this size; of timm's default one where no name says the size."""
    key = (config.width, config.depth, config.heads, config.mlp_dim)
    size, patches = _VIT.get(key, ("base", ()))
    known = config.patch_size in patches
    return f"vit_{size}_patch{config.patch_size}_224" if known else "vit_base_patch16_224"


def _eva(config: ViTConfig, shared: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    _refuse(
        "Eva",
        gelu=config.mlp == "gelu" and config.gelu != "exact" and config.gelu,
        norm=config.norm == "rms" and config.norm,
        proj_bias=not config.proj_bias and "off",
        patch_bias=config.pre_norm and config.patch_bias,
        pool=config.pool == "map" and config.pool,
        distilled=config.distilled,
    )
    reference = config.rotary_reference
    arguments: dict[str, Any] = {
        "mlp_ratio": _ratio(config, 1),
        "qkv_fused": True,
        "attn_type": "rope" if config.qkv_bias == "all" else "eva",
        "swiglu_mlp": config.mlp == "swiglu",
        "swiglu_align_to": 0,
        "scale_mlp": config.mlp_norm,
        "scale_attn_inner": config.attn_norm,
        "num_reg_tokens": config.registers,
        "use_abs_pos_emb": config.pos_embed != "none",
        "use_rot_pos_emb": config.rotary != "none",
        "rope_type": "dinov3" if config.rotary == "dinov3" else "cat",
        "rope_rotate_half": config.rotary == "dinov3",
        "rope_temperature": config.rotary_temperature,
        "ref_feat_shape": [reference, reference] if reference else None,
        "use_pre_transformer_norm": config.pre_norm,
        "use_fc_norm": config.fc_norm,
        "dynamic_img_size": False,
    }
    like_dinov3 = config.norm_eps == 1e-5
    architecture = "vit_base_patch16_dinov3" if like_dinov3 else "eva02_base_patch14_224"
    return architecture, shared | arguments


def _beit(config: ViTConfig) -> tuple[str, dict[str, Any]]:
    mean = config.pool == "gap"
    _refuse(
        "Beit",
        pool=config.pool == "map" and config.pool,
        registers=config.registers != mean and str(config.registers),  # 1 is its class token
        norm_eps=config.norm_eps > 1e-6 and config.norm_eps,
        mlp=config.mlp != "gelu" and config.mlp,
        gelu=config.gelu != "exact" and config.gelu,
        qkv_bias=config.qkv_bias == "all" and config.qkv_bias,
        norm=config.norm == "rms" and config.norm,
        proj_bias=not config.proj_bias and "off",
        rotary=config.rotary != "none" and config.rotary,
        **{name: getattr(config, name) for name in ("pre_norm", "qk_norm", "attn_norm",
                                                    "distilled")},
    )  # fmt: skip
    return "beit_base_patch16_224", _sizes(config) | {
        "mlp_ratio": _ratio(config, 1),
        "scale_mlp": config.mlp_norm,
        "use_abs_pos_emb": False,
        "use_rel_pos_bias": True,
        "use_fc_norm": config.fc_norm,
    }


def _sizes(config: ViTConfig) -> dict[str, Any]:
    """Arguments that all of timm's Transformers have."""
    return {
        "img_size": list(config.image_hw),
        "patch_size": config.patch_size,
        "in_chans": config.in_channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "global_pool": "avg" if config.pool == "gap" else config.pool,
        "qkv_bias": config.qkv_bias != "none",
        "init_values": config.layer_scale_init if config.layer_scale else None,
    }


def _ratio(config: ViTConfig, matrices: int) -> float:
    # timm truncates width * ratio; half a unit more survives that.
    return (matrices * config.mlp_dim + 0.5) / config.width


def _refuse(whose: str, **found: Any) -> None:
    """Raise BadModel that names each field with a value that timm's model has no place for."""
    named = [f"{name} {value!r}" for name, value in found.items() if value]
    if named:
        raise BadModel(f"timm's {whose} has no place for {', '.join(named)}")
