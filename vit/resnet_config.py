"""What a BiT ResNet is, as a frozen value; and the checks that it shares with `vit.config`."""

from dataclasses import dataclass
from typing import Any, Literal

from vit.errors import BadModel


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
        at_least(1, self, "in_channels", "width_factor")
        at_least(0, self, "num_classes")
        if not self.blocks or any(length < 1 for length in self.blocks):
            raise BadModel(f"blocks must have a stage and blocks in each, found {self.blocks}")
        if any(side < 1 for side in self.image_hw):
            raise BadModel(f"image_size must be at least 1, found {self.image_size}")

    @property
    def image_hw(self) -> tuple[int, int]:
        """Image height and width in pixels."""
        return height_and_width(self.image_size)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the feature map."""
        stride = 2 ** (1 + len(self.blocks))
        height, width = self.image_hw
        return -(-height // stride), -(-width // stride)


def at_least(least: int, config: Any, *names: str) -> None:
    """Raise BadModel for a field of a config that is below `least`."""
    for name in names:
        if getattr(config, name) < least:
            raise BadModel(f"{name} must be at least {least}, found {getattr(config, name)}")


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """The two sides of an image size: one number means a square."""
    return (size, size) if isinstance(size, int) else size
