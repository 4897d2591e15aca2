"""What a model costs: parameters, and multiply-adds of one image's forward pass, in closed form.

Counted are the matrix products and convolutions, as `torch.utils.flop_counter` counts them (one
multiply-add is two FLOPs); norms, activations and sums are left out, as the field does. All tokens
go through all blocks in this count, as in published figures, though a model that classifies by the
class token skips some of the last block.
"""

from dataclasses import dataclass

from torch import nn

from vit.config import BiTConfig, Config, ViTConfig


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters of a model and the arithmetic of one image."""

    parameters: int
    """Number of trainable parameters."""
    forward_macs: int
    """Multiply-adds of the forward pass."""

    @property
    def forward_flops(self) -> int:
        """FLOPs of the forward pass."""
        return 2 * self.forward_macs

    @property
    def training_flops(self) -> int:
        """FLOPs of a training step: the backward pass needs twice those of the forward pass.

        Recomputation by activation checkpointing is not counted, because it is not useful work.
        """
        return 6 * self.forward_macs


def cost_of(model: nn.Module, config: Config) -> Cost:
    """Cost of `config`'s model for one image of its size. `model` may be on the meta device."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    macs = _bit_macs(config) if isinstance(config, BiTConfig) else _vit_macs(config)
    return Cost(parameters=parameters, forward_macs=macs)


def _vit_macs(config: ViTConfig) -> int:
    width, tokens, hidden = config.width, config.num_tokens, config.mlp_dim
    rows, columns = config.grid_size
    channels, macs = config.in_channels, 0
    if config.stem_blocks:
        macs, channels = _resnet_macs(
            config.image_hw, channels, config.stem_blocks, 64 * config.stem_width_factor
        )
    macs += rows * columns * channels * config.patch_size**2 * width
    macs += macs_of_blocks(config, tokens)
    if config.pool == "map":
        macs += 2 * width**2 + 2 * tokens * width**2 + 2 * tokens * width + 2 * width * hidden
    if config.head == "mlp":
        macs += width**2
    return macs + (1 + config.distilled) * width * config.num_classes


def macs_of_blocks(config: ViTConfig, tokens: int) -> int:
    """Multiply-adds of all blocks for an image of so many tokens."""
    width = config.width
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    if config.pos_embed == "relative":
        attention += tokens * (2 * tokens - 1) * width
    matrices = 2 if config.mlp == "gelu" else 3
    return config.depth * (attention + matrices * tokens * width * config.mlp_dim)


def _bit_macs(config: BiTConfig) -> int:
    width = 64 * config.width_factor
    macs, channels = _resnet_macs(config.image_hw, config.in_channels, config.blocks, width)
    return macs + channels * config.num_classes


def _resnet_macs(
    image: tuple[int, int], in_channels: int, blocks: tuple[int, ...], width: int
) -> tuple[int, int]:
    """Multiply-adds of a ResNet's stem and stages, and the channels of their output."""
    height, breadth = (-(-side // 2) for side in image)
    macs = height * breadth * 7 * 7 * in_channels * width
    height, breadth, channels = -(-height // 2), -(-breadth // 2), width
    for i, length in enumerate(blocks):
        middle = width * 2**i
        for block in range(length):
            before = height * breadth
            if i and not block:
                height, breadth = -(-height // 2), -(-breadth // 2)
            after = height * breadth
            macs += before * channels * middle + after * 9 * middle**2 + after * 4 * middle**2
            if channels != 4 * middle or before != after:
                macs += after * channels * 4 * middle
            channels = 4 * middle
    return macs, channels
