"""What a Vision Transformer is, as a frozen value. A variant is another value derived by `replace`.

The defaults are the paper's (arXiv:2010.11929) and its reference code's, which differ from many
ports: tanh GELU and LayerNorm eps 1e-6. `pool="token"` is what brings the class token; the other
pools have none.

A field that is added here must do nothing at its default, neither to the initial weights nor to the
logits, and is entered in `_ADDED` of `pipelines/recipes/fingerprint.py`, so that stages that do not
use it keep their fingerprints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil, floor
from typing import Any, Literal

from vit.errors import BadModel
from vit.resnet_config import BiTConfig, at_least, height_and_width

__all__ = ["BiTConfig", "Config", "ViTConfig", "config_from_dict"]

Pool = Literal["token", "gap", "map"]
Head = Literal["linear", "mlp"]
QkvBias = Literal["all", "no-key", "none"]
Rotary = Literal["none", "axial", "dinov3"]
PosEmbed = Literal["none", "learned-1d", "learned-2d", "sincos-2d", "relative", "relative-bias"]
RELATIVE: tuple[PosEmbed, ...] = ("relative", "relative-bias")
"""Positions that belong to pairs of tokens."""


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """One Vision Transformer: patches, tokens, blocks, head, regularisation."""

    family: Literal["vit"] = "vit"
    """Name of the model family in a manifest. Do not change it."""

    # Patches
    image_size: int | tuple[int, int] = 224
    """Image side in pixels, or (height, width)."""
    patch_size: int = 16
    """Patch side in pixels of the image, or of the ResNet stem's feature map if there is a stem."""
    drop_rest: bool = False
    """Allow an image side that is no multiple of the patch size. Pixels beyond the last whole patch
    are ignored, as in timm."""
    patch_bias: bool = True
    """Whether the patch embedding has a bias (not in CLIP)."""
    stem_blocks: tuple[int, ...] = ()
    """For hybrids, the number of bottlenecks in each stage of the ResNet stem; empty means no
    stem."""
    stem_width_factor: int = 1
    """For hybrids, the width of the ResNet stem in multiples of 64 channels."""
    in_channels: int = 3
    """Channels of the image."""

    # Tokens and their positions
    pos_embed: PosEmbed = "learned-1d"
    """Kind of position embedding; Table 8 of the paper compares all but relative-bias, which is
    BEiT's: a learned bias of attention for each offset between two patches."""
    pos_embed_prefix: bool = True
    """Whether a learned-1d table also has rows for class and register tokens (not in
    big_vision)."""
    registers: int = 0
    """Number of register tokens (arXiv:2309.16588), between the class token and the patches."""
    rotary: Rotary = "none"
    """Rotation of queries and keys by their place in the grid, beside `pos_embed`: axial
    (arXiv:2303.11331) or DINOv3's, whose coordinates go from -1 to 1 (arXiv:2508.10104)."""
    rotary_temperature: float = 10_000.0
    """Base of the periods of the rotation; 100 in DINOv3."""
    rotary_reference: int = 0
    """Side of the grid that an axial rotation's coordinates are scaled to; 0 means no scaling."""

    # Blocks
    width: int = 768
    """Channels of each token (the embedding dimension)."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 12
    """Attention heads per block. `width` must be divisible by it."""
    mlp_dim: int = 3072
    """Hidden units of the MLP in each block; in a SwiGLU those behind the gate."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """Kind of MLP in the blocks: two layers with GELU, or with a SiLU gate (arXiv:2002.05202)."""
    gelu: Literal["tanh", "exact", "quick"] = "tanh"
    """Form of GELU: the tanh approximation of the reference, the exact one of timm, or the sigmoid
    approximation of OpenAI's CLIP."""
    norm: Literal["layer", "rms"] = "layer"
    """Kind of every norm: LayerNorm, or RMSNorm, which has no mean and no bias."""
    norm_eps: float = 1e-6
    """Epsilon of every norm."""
    pre_norm: bool = False
    """Norm of the tokens before the first block (CLIP)."""
    qk_norm: bool = False
    """Norm of each head's queries and keys (arXiv:2302.05442)."""
    attn_norm: bool = False
    """Norm of attention's output before its last layer (EVA-02 CLIP)."""
    mlp_norm: bool = False
    """Norm of the MLP's hidden units before its last layer (EVA-02)."""
    qkv_bias: QkvBias = "all"
    """Which of queries, keys and values have a bias: all, all but keys (EVA, DINOv3) or none."""
    proj_bias: bool = True
    """Whether attention's last layer and both layers of the MLP have a bias."""
    layer_scale: bool = False
    """Scale the output of attention and MLP by a learned factor per channel (arXiv:2103.17239)."""
    layer_scale_init: float = 1e-5
    """Initial value of these factors."""

    # Head
    num_classes: int = 1000
    """Number of classes of the head; 0 means no head."""
    pool: Pool = "token"
    """Input of the head: the class token, the mean of the patches (gap) or attention pooling
    (map)."""
    fc_norm: bool = False
    """Apply the final norm after the pooling instead of before it (timm's `fc_norm`)."""
    head: Head = "linear"
    """Kind of head: one linear layer, or the paper's pre-training head (linear, tanh, linear)."""
    distilled: bool = False
    """Second token with a head of its own behind the class token; logits are the mean of both heads
    (DeiT, arXiv:2012.12877)."""
    head_bias_init: float = 0.0
    """Initial bias of the head. -10 suits a sigmoid loss over 21k classes, -6.9 over 1k."""

    # Regularisation
    dropout: float = 0.0
    """Dropout rate after the position embedding, after the attention output and in the MLP."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; it grows linearly from 0 at the first block."""
    drop_path_constant: bool = False
    """Whether every block has that rate instead (DeiT-III)."""

    def __post_init__(self) -> None:
        at_least(1, self, "patch_size", "in_channels", "width", "depth", "heads", "mlp_dim")
        at_least(1, self, "stem_width_factor")
        at_least(0, self, "num_classes", "registers", "rotary_reference")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise BadModel(f"{name} must be in [0, 1), found {getattr(self, name)}")
        for name in ("norm_eps", "rotary_temperature", "layer_scale_init"):
            if getattr(self, name) <= 0:
                raise BadModel(f"{name} must be positive, found {getattr(self, name)}")
        self._check_patches()
        if self.width % self.heads:
            raise BadModel(f"width {self.width} is not a multiple of heads {self.heads}")
        parts = {"sincos-2d": 4, "learned-2d": 2}.get(self.pos_embed, 1)
        if self.width % parts:
            raise BadModel(f"pos_embed {self.pos_embed} needs width {self.width} % {parts} == 0")
        if self.rotary != "none" and self.width // self.heads % 4:
            raise BadModel(
                f"rotary {self.rotary} needs width / heads % 4 == 0, found {self.width} /"
                f" {self.heads}"
            )
        if self.fc_norm and self.pool == "map":
            raise BadModel("fc_norm cannot be used with pool 'map', which has a norm of its own")
        if self.distilled and (self.pool != "token" or self.head != "linear" or self.fc_norm):
            raise BadModel("distilled needs pool 'token' and head 'linear', without fc_norm")

    def _check_patches(self) -> None:
        size, step = self.image_size, self.patch_pixels
        if any(
            side < step if self.drop_rest else side < 1 or side % step for side in self.image_hw
        ):
            times = f" times the stem's {self.stem_stride}" if self.stem_blocks else ""
            found = "smaller than" if self.drop_rest else "not a multiple of"
            near = {step * max(1, round_(min(self.image_hw) / step)) for round_ in (floor, ceil)}
            take = " or ".join(map(str, sorted(near)))
            raise BadModel(
                f"image_size {size} is {found} patch_size {self.patch_size}{times} - take {take}"
            )
        if any(length < 1 for length in self.stem_blocks):
            raise BadModel(f"stem_blocks {self.stem_blocks} has a stage without blocks")
        if self.stem_blocks and (self.drop_rest or not self.patch_bias):
            raise BadModel("a hybrid (stem_blocks) has a patch_bias and cannot drop_rest")

    @property
    def image_hw(self) -> tuple[int, int]:
        """Image height and width in pixels."""
        return height_and_width(self.image_size)

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
    def num_class_tokens(self) -> int:
        """Tokens that a linear head reads: the class token, and the distillation token if any."""
        return int(self.pool == "token") + int(self.distilled)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the patches: class token, distillation token, registers."""
        return self.num_class_tokens + self.registers

    @property
    def num_tokens(self) -> int:
        """Tokens of one image inside the blocks."""
        rows, columns = self.grid_size
        return self.num_prefix_tokens + rows * columns


Config = ViTConfig | BiTConfig


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
