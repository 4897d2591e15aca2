"""Initial weights, after the reference's Flax code: one rule per kind of tensor, on one screen.

A tensor without a rule stays NaN, which `build_model` reports. A few rules may surprise: q, k and v
are three Xavier matrices in one, the last GroupNorm scale of a hybrid's bottleneck is 0 (each
bottleneck starts as its shortcut), and the head is 0 (the loss starts at that of a constant).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import init

from vit.config import BiTConfig, Config, ViTConfig
from vit.embed import sincos_table
from vit.rotary import rotary_table

_NORMS = ("norm", "norm1", "norm2", "norm3", "norm_pre", "fc_norm", "q_norm", "k_norm")


@torch.no_grad()
def init_weights(tensors: Mapping[str, Tensor], config: Config, generator: torch.Generator) -> None:
    """Fill the parameters and buffers of `config`'s model, given by their names."""
    for name, tensor in tensors.items():
        if name == "pos_table":
            tensor.copy_(sincos_table(config.grid_size, tensor.shape[-1]))
        elif name == "rotary_table":
            assert isinstance(config, ViTConfig)
            tensor.copy_(rotary_table(config))
        else:
            init_tensor_(name, tensor, config, generator)


def init_tensor_(name: str, tensor: Tensor, config: Config, generator: torch.Generator) -> None:
    """Fill one parameter by the rule for its name."""
    *owners, leaf = name.split(".")
    owner = owners[-1] if owners else ""
    if name in ("head.weight", "head.fc.weight", "head_dist.weight"):
        init.zeros_(tensor)
    elif name in ("head.bias", "head.fc.bias", "head_dist.bias"):
        init.constant_(tensor, config.head_bias_init)
    elif owner in _NORMS:
        starts_as_shortcut = owner == "norm3" and "backbone" in owners
        init.constant_(tensor, float(leaf == "weight" and not starts_as_shortcut))
    elif "stages" in owners or "stem" in owners:
        lecun_normal_(tensor, generator)
    elif isinstance(config, BiTConfig):
        return
    elif leaf == "gamma":
        init.constant_(tensor, config.layer_scale_init)
    elif leaf in ("q_bias", "v_bias"):
        init.zeros_(tensor)
    elif leaf == "bias":
        mlp = owner in ("fc1", "fc2")
        init.normal_(tensor, std=1e-6, generator=generator) if mlp else init.zeros_(tensor)
    elif owner in ("qkv", "kv"):
        _xavier_parts_(tensor, config.width, generator)
    elif owner == "fc1" and config.mlp == "swiglu":
        _xavier_parts_(tensor, config.mlp_dim, generator)
    elif owner in ("q", "fc1", "fc2") or (owner == "proj" and "patch_embed" not in owners):
        init.xavier_uniform_(tensor, generator=generator)
    elif owner in ("fc", "proj"):
        lecun_normal_(tensor, generator)
    elif leaf == "latent":
        init.xavier_uniform_(tensor[0], generator=generator)
    elif leaf in ("pos_embed", "pos_embed_y", "pos_embed_x", "rel_pos"):
        init.normal_(tensor, std=0.02, generator=generator)
    elif leaf in ("reg_token", "dist_token"):
        init.normal_(tensor, std=1e-6, generator=generator)  # as arXiv:2309.16588 does
    elif leaf in ("cls_token", "relative_position_bias_table"):
        init.zeros_(tensor)


def _xavier_parts_(tensor: Tensor, rows: int, generator: torch.Generator) -> None:
    """One Xavier matrix per part of a fused one, whose shape would give a different fan-out."""
    for part in tensor.split(rows):
        init.xavier_uniform_(part, generator=generator)


def lecun_normal_(tensor: Tensor, generator: torch.Generator) -> None:
    """Fill with Flax's default: normal, truncated at 2 sigma, variance 1 / fan_in afterwards."""
    std = tensor[0].numel() ** -0.5 / 0.87962566103423978
    init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std, generator=generator)
