"""What a Vision Transformer is, as a frozen value. A variant is another value derived by `replace`.

The defaults are the paper's (arXiv:2010.11929) and its reference code's, which differ from many
ports: tanh GELU and LayerNorm eps 1e-6. `pool="token"` is what brings the class token; the other
pools have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

__all__ = ["VARIANTS", "Config", "ViTConfig", "config_from_dict"]

Pool = Literal["token", "gap", "map"]
Head = Literal["linear", "mlp"]
PosEmbed = Literal["none", "learned-1d", "learned-2d", "sincos-2d", "relative"]


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """One Vision Transformer: sizes, head, position embedding, regularisation."""

    family: Literal["vit"] = "vit"
    """Tells the model families apart in a manifest; leave it."""
    image_size: int | tuple[int, int] = 224
    """Image side in pixels, or (height, width)."""
    patch_size: int = 16
    """Patch side in pixels."""
    in_channels: int = 3
    """Channels of the image."""
    width: int = 768
    """Length of a token."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 12
    """Attention heads in a block; divides width."""
    mlp_dim: int = 3072
    """Hidden units of a block's MLP."""
    num_classes: int = 1000
    """Classes of the head; 0 leaves the head out."""
    pool: Pool = "token"
    """What the head reads: class token, mean of the patches (gap), attention pooling (map)."""
    head: Head = "linear"
    """One linear layer, or the paper's pre-training head: linear, tanh, linear."""
    pos_embed: PosEmbed = "learned-1d"
    """Position embedding; the paper's Table 8 compares them."""
    pos_embed_prefix: bool = True
    """Whether a learned-1d table has rows for class and register tokens too (big_vision: no)."""
    registers: int = 0
    """Register tokens (arXiv:2309.16588), between the class token and the patches."""
    fc_norm: bool = False
    """Put the final LayerNorm after the pooling instead of before (timm's `fc_norm`)."""
    gelu: Literal["tanh", "exact"] = "tanh"
    """GELU's tanh approximation is the reference's; the exact one is timm's and Hugging Face's."""
    norm_eps: float = 1e-6
    """Epsilon of every LayerNorm."""
    dropout: float = 0.0
    """Dropout after the position embedding, after attention's output and in the MLP."""
    drop_path: float = 0.0
    """Stochastic depth of the last block, growing linearly from 0 at the first."""
    head_bias_init: float = 0.0
    """Bias of a new head: -10 suits a sigmoid loss over 21k classes, -6.9 over 1k."""

    def __post_init__(self) -> None:
        for name in ("patch_size", "in_channels", "width", "depth", "heads", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("num_classes", "registers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name)}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), found {getattr(self, name)}")
        if self.norm_eps <= 0:
            raise ValueError(f"norm_eps must be positive, found {self.norm_eps}")
        size, patch = self.image_size, self.patch_size
        if any(side < 1 or side % patch for side in self.image_hw):
            raise ValueError(f"image_size {size} is not a multiple of patch_size {patch}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        parts = {"sincos-2d": 4, "learned-2d": 2}.get(self.pos_embed, 1)
        if self.width % parts:
            raise ValueError(f"pos_embed {self.pos_embed} needs width {self.width} % {parts} == 0")
        if self.fc_norm and self.pool == "map":
            raise ValueError("fc_norm has no place with pool 'map', which has a norm of its own")

    @property
    def image_hw(self) -> tuple[int, int]:
        """Image height and width in pixels."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return self.image_size

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_hw
        return height // self.patch_size, width // self.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the patches: class token, then registers."""
        return int(self.pool == "token") + self.registers

    @property
    def num_tokens(self) -> int:
        """Tokens of one image inside the blocks."""
        rows, columns = self.grid_size
        return self.num_prefix_tokens + rows * columns


Config = ViTConfig


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Rebuild a config from `dataclasses.asdict`, also after JSON made lists of its tuples.

    Raises ValueError naming unknown keys, so that a manifest of another version is not misread.
    """
    known = {field.name for field in fields(ViTConfig)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown model config keys {unknown}; known: {sorted(known)}")
    if (family := values.get("family", "vit")) != "vit":
        raise ValueError(f"unknown model family {family!r}; known: 'vit'")
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return ViTConfig(**given)


# Table 1 of arXiv:2010.11929 (B, L, H), arXiv:2106.10270 (Ti, S) and arXiv:2106.04560 (g, G).
_SIZES = {
    "ti": ViTConfig(width=192, depth=12, heads=3, mlp_dim=768),
    "s": ViTConfig(width=384, depth=12, heads=6, mlp_dim=1536),
    "b": ViTConfig(width=768, depth=12, heads=12, mlp_dim=3072),
    "l": ViTConfig(width=1024, depth=24, heads=16, mlp_dim=4096),
    "h": ViTConfig(width=1280, depth=32, heads=16, mlp_dim=5120),
    "g": ViTConfig(width=1408, depth=40, heads=16, mlp_dim=6144),
    "G": ViTConfig(width=1664, depth=48, heads=16, mlp_dim=8192),
}

VARIANTS: dict[str, Config] = {
    f"vit_{name}{patch_size}": replace(size, patch_size=patch_size)
    for name, size in _SIZES.items()
    for patch_size in (8, 14, 16, 32)
}
"""Named models at 224 px with 1,000 classes; derive others with `dataclasses.replace`."""
