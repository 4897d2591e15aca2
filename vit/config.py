"""What a Vision Transformer is, as a frozen value. A variant is another value derived by `replace`.

The defaults are the paper's (arXiv:2010.11929) and its reference code's, which differ from many
ports: tanh GELU and LayerNorm eps 1e-6. `pool="token"` is what brings the class token; the other
pools have none.

A field that is added here must do nothing at its default, neither to the initial weights nor to the
logits, and is entered in `_ADDED` of `pipelines/recipes/stage.py`, so that stages that do not use
it keep their fingerprints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from vit.errors import BadModel

__all__ = ["BiTConfig", "Config", "ViTConfig", "config_from_dict"]

Pool = Literal["token", "gap", "map"]
Head = Literal["linear", "mlp"]
PosEmbed = Literal["none", "learned-1d", "learned-2d", "sincos-2d", "relative"]


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """One Vision Transformer: sizes, head, position embedding, regularisation."""

    family: Literal["vit"] = "vit"
    """Name of the model family in a manifest. Do not change it."""
    image_size: int | tuple[int, int] = 224
    """Image side in pixels, or (height, width)."""
    patch_size: int = 16
    """Patch side in pixels of the image, or of the ResNet stem's feature map if there is a stem."""
    stem_blocks: tuple[int, ...] = ()
    """For hybrids, the number of bottlenecks in each stage of the ResNet stem; empty means no
    stem."""
    stem_width_factor: int = 1
    """For hybrids, the width of the ResNet stem in multiples of 64 channels."""
    in_channels: int = 3
    """Channels of the image."""
    width: int = 768
    """Channels of each token (the embedding dimension)."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 12
    """Attention heads per block. `width` must be divisible by it."""
    mlp_dim: int = 3072
    """Hidden units of the MLP in each block."""
    num_classes: int = 1000
    """Number of classes of the head; 0 means no head."""
    pool: Pool = "token"
    """Input of the head: the class token, the mean of the patches (gap) or attention pooling
    (map)."""
    head: Head = "linear"
    """Kind of head: one linear layer, or the paper's pre-training head (linear, tanh, linear)."""
    pos_embed: PosEmbed = "learned-1d"
    """Kind of position embedding; Table 8 of the paper compares them."""
    pos_embed_prefix: bool = True
    """Whether a learned-1d table also has rows for class and register tokens (not in
    big_vision)."""
    registers: int = 0
    """Number of register tokens (arXiv:2309.16588), between the class token and the patches."""
    fc_norm: bool = False
    """Apply the final LayerNorm after the pooling instead of before it (timm's `fc_norm`)."""
    gelu: Literal["tanh", "exact"] = "tanh"
    """Form of GELU: the tanh approximation of the reference, or the exact one of timm."""
    norm_eps: float = 1e-6
    """Epsilon of every LayerNorm."""
    dropout: float = 0.0
    """Dropout rate after the position embedding, after the attention output and in the MLP."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; it grows linearly from 0 at the first block."""
    head_bias_init: float = 0.0
    """Initial bias of the head. -10 suits a sigmoid loss over 21k classes, -6.9 over 1k."""

    def __post_init__(self) -> None:
        _at_least(1, self, "patch_size", "in_channels", "width", "depth", "heads", "mlp_dim")
        _at_least(1, self, "stem_width_factor")
        _at_least(0, self, "num_classes", "registers")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise BadModel(f"{name} must be in [0, 1), found {getattr(self, name)}")
        if self.norm_eps <= 0:
            raise BadModel(f"norm_eps must be positive, found {self.norm_eps}")
        size, step = self.image_size, self.patch_pixels
        if any(side < 1 or side % step for side in self.image_hw):
            times = f" times the stem's {self.stem_stride}" if self.stem_blocks else ""
            raise BadModel(
                f"image_size {size} is not a multiple of patch_size {self.patch_size}{times}"
            )
        if any(length < 1 for length in self.stem_blocks):
            raise BadModel(f"stem_blocks {self.stem_blocks} has a stage without blocks")
        if self.width % self.heads:
            raise BadModel(f"width {self.width} is not a multiple of heads {self.heads}")
        parts = {"sincos-2d": 4, "learned-2d": 2}.get(self.pos_embed, 1)
        if self.width % parts:
            raise BadModel(f"pos_embed {self.pos_embed} needs width {self.width} % {parts} == 0")
        if self.fc_norm and self.pool == "map":
            raise BadModel("fc_norm cannot be used with pool 'map', which has a norm of its own")

    @property
    def image_hw(self) -> tuple[int, int]:
        """Image height and width in pixels."""
        return _height_and_width(self.image_size)

    @property
    def stem_stride(self) -> int:
        """Image pixels per pixel of the ResNet stem's feature map; 1 without a stem."""
        return 2 ** (1 + len(self.stem_blocks)) if self.stem_blocks else 1

    @property
    def patch_pixels(self) -> int:
        """Patch side in pixels of the image."""
        return self.stem_stride * self.patch_size

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_hw
        return height // self.patch_pixels, width // self.patch_pixels

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the patches: class token, then registers."""
        return int(self.pool == "token") + self.registers

    @property
    def num_tokens(self) -> int:
        """Tokens of one image inside the blocks."""
        rows, columns = self.grid_size
        return self.num_prefix_tokens + rows * columns


@dataclass(frozen=True, kw_only=True)
class BiTConfig:
    """One BiT ResNet (arXiv:1912.11370), the paper's baseline."""

    family: Literal["bit"] = "bit"
    """Name of the model family in a manifest. Do not change it."""
    image_size: int | tuple[int, int] = 224
    """Image side in pixels, or (height, width). The weights fit any size."""
    in_channels: int = 3
    """Channels of the image."""
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Bottlenecks in each stage."""
    width_factor: int = 1
    """Width of the stem in multiples of 64 channels."""
    num_classes: int = 1000
    """Number of classes of the head; 0 means no head."""
    head_bias_init: float = 0.0
    """Bias of a new head."""

    def __post_init__(self) -> None:
        _at_least(1, self, "in_channels", "width_factor")
        _at_least(0, self, "num_classes")
        if not self.blocks or any(length < 1 for length in self.blocks):
            raise BadModel(f"blocks must have a stage and blocks in each, found {self.blocks}")
        if any(side < 1 for side in self.image_hw):
            raise BadModel(f"image_size must be at least 1, found {self.image_size}")

    @property
    def image_hw(self) -> tuple[int, int]:
        """Image height and width in pixels."""
        return _height_and_width(self.image_size)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the feature map."""
        stride = 2 ** (1 + len(self.blocks))
        height, width = self.image_hw
        return -(-height // stride), -(-width // stride)


Config = ViTConfig | BiTConfig


def _at_least(least: int, config: Config, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise BadModel(f"{name} must be at least {least}, found {getattr(config, name)}")


def _height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Rebuild a config from `dataclasses.asdict`, also after JSON made lists of its tuples.

    Raises BadModel naming unknown keys, so that a manifest of another version is not misread.
    """
    family = values.get("family", "vit")
    if family not in _FAMILIES:
        raise BadModel(f"unknown model family {family!r}; known: {sorted(_FAMILIES)}")
    known = {field.name for field in fields(_FAMILIES[family])}
    if unknown := sorted(set(values) - known):
        raise BadModel(f"unknown {family} config keys {unknown}; known: {sorted(known)}")
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return _FAMILIES[family](**given)


_FAMILIES: dict[str, type[ViTConfig] | type[BiTConfig]] = {"vit": ViTConfig, "bit": BiTConfig}
