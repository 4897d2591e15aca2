"""Settings of the objectives that hide patches."""

from dataclasses import dataclass
from typing import Literal

from vit.config import ViTConfig
from vit.errors import BadModel
from vit.resnet_config import at_least

Hiding = Literal["masked-patch", "mae"]
"""The objectives that hide something."""
RATIOS: dict[Hiding, float] = {"masked-patch": 0.5, "mae": 0.75}
"""Share of the patches to predict, in their papers."""


@dataclass(frozen=True, kw_only=True)
class Masked:
    """How much is hidden of an image, and what predicts it."""

    ratio: float | None = None
    """Share of the patches to predict. Default: 0.5 of masked-patch, 0.75 of mae."""
    decoder_width: int = 512
    """mae: channels of the decoder."""
    decoder_depth: int = 8
    """mae: blocks of the decoder."""
    decoder_heads: int = 16
    """mae: attention heads of the decoder."""
    normalize: bool = True
    """mae: predict each patch's pixels less their mean, over their standard deviation."""

    def __post_init__(self) -> None:
        at_least(1, self, "decoder_width", "decoder_depth", "decoder_heads")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise BadModel(f"masked.ratio must be within (0, 1), found {self.ratio}")
        if self.decoder_width % 4 or self.decoder_width % self.decoder_heads:
            raise BadModel(
                f"masked.decoder_width {self.decoder_width} is not a multiple of 4 and of"
                f" masked.decoder_heads {self.decoder_heads}"
            )


def patches_of(config: ViTConfig) -> int:
    """Number of patches of an image."""
    rows, columns = config.grid_size
    return rows * columns


def hidden_patches(kind: Hiding, config: ViTConfig, masked: Masked) -> int:
    """Number of patches that an objective hides of an image, at least 1.

    Raises BadModel if none would be left to see.
    """
    patches, ratio = patches_of(config), masked.ratio or RATIOS[kind]
    hidden = max(1, patches - int(patches * (1 - ratio)))
    if hidden >= patches:
        raise BadModel(
            f"masked.ratio {ratio} hides all {patches} patches of an image of"
            f" {config.image_size} pixels - give a smaller one"
        )
    return hidden
