"""The two ResNets of the paper: the stem of the hybrids, and BiT, the baseline.

They are not the same network. The hybrids' stem (vision_transformer's code) is a ResNet v1: norm
after each convolution, TensorFlow's lopsided SAME padding, weights divided by their standard
deviation + 1e-5. BiT (arXiv:1912.11370) is a ResNet v2: norm before each convolution, symmetric
padding, zeros around the max-pool's input. Both have GroupNorm and standardised weights.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vit.config import BiTConfig
from vit.cost import Cost, cost_of
from vit.heads import float32_logits


class StdConv(nn.Conv2d):
    """Convolution with standardised weights (mean 0, variance 1 per output channel) and no bias.

    With `same`, padding is TensorFlow's (an odd pixel goes right and below) and weights are divided
    by std + 1e-5; without, by sqrt(var + 1e-10). So do the two reference codes.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, same: bool
    ) -> None:
        padding = 0 if same else (kernel - 1) // 2
        super().__init__(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.same = same

    def forward(self, input: Tensor) -> Tensor:
        """Convolve: [B, C, H, W] -> [B, C', ceil(H / stride), ceil(W / stride)]."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        scale = variance.sqrt() + 1e-5 if self.same else (variance + 1e-10).sqrt()
        weight = (self.weight - mean) / scale
        if self.same:
            input = pad_same(input, self.kernel_size[0], self.stride[0])
        return F.conv2d(input, weight, None, self.stride, self.padding)


def pad_same(images: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad [B, C, H, W] as TensorFlow's SAME does."""
    pads: list[int] = []
    for side in (images.shape[-1], images.shape[-2]):  # the last dimension comes first
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(images, pads, value=value) if any(pads) else images


class Downsample(nn.Module):
    """The shortcut where the shape changes: a 1x1 convolution, followed by a norm in hybrids."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, hybrid: bool) -> None:
        super().__init__()
        self.conv = StdConv(in_channels, out_channels, 1, stride=stride, same=hybrid)
        self.norm = nn.GroupNorm(32, out_channels, eps=1e-6) if hybrid else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        return self.norm(self.conv(images))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut, narrow in the middle."""

    def __init__(self, in_channels: int, middle: int, stride: int, *, hybrid: bool) -> None:
        super().__init__()
        out_channels = 4 * middle
        self.hybrid = hybrid
        self.conv1 = StdConv(in_channels, middle, 1, same=hybrid)
        self.conv2 = StdConv(middle, middle, 3, stride=stride, same=hybrid)
        self.conv3 = StdConv(middle, out_channels, 1, same=hybrid)
        eps = 1e-6 if hybrid else 1e-5
        widths = (middle, middle, out_channels) if hybrid else (in_channels, middle, middle)
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(32, w, eps=eps) for w in widths)
        changes_shape = in_channels != out_channels or stride != 1
        self.downsample = (
            Downsample(in_channels, out_channels, stride, hybrid=hybrid) if changes_shape else None
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 4 * middle, H / stride, W / stride]."""
        if self.hybrid:
            shortcut = images if self.downsample is None else self.downsample(images)
            branch = F.relu(self.norm1(self.conv1(images)))
            branch = F.relu(self.norm2(self.conv2(branch)))
            return F.relu(shortcut + self.norm3(self.conv3(branch)))
        branch = F.relu(self.norm1(images))
        shortcut = images if self.downsample is None else self.downsample(branch)
        branch = self.conv1(branch)
        branch = self.conv2(F.relu(self.norm2(branch)))
        return shortcut + self.conv3(F.relu(self.norm3(branch)))


class Stage(nn.Module):
    """Bottlenecks of one width, the first of which may halve the image."""

    def __init__(
        self, in_channels: int, middle: int, length: int, stride: int, *, hybrid: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            Bottleneck(in_channels, middle, stride, hybrid=hybrid),
            *(Bottleneck(4 * middle, middle, 1, hybrid=hybrid) for _ in range(length - 1)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 4 * middle, H / stride, W / stride]."""
        return self.blocks(images)


def make_stages(blocks: Iterable[int], width: int, *, hybrid: bool) -> nn.Sequential:
    """The stages of a ResNet whose stem has `width` channels; all but the first halve the image."""
    stages: list[Stage] = []
    channels = width
    for i, length in enumerate(blocks):
        middle = width * 2**i
        stages.append(Stage(channels, middle, length, 2 if i else 1, hybrid=hybrid))
        channels = 4 * middle
    return nn.Sequential(*stages)


class Stem(nn.Module):
    """7x7 convolution and max-pool, each halving: [B, C, H, W] -> [B, width, H / 4, W / 4]."""

    def __init__(self, in_channels: int, width: int, *, hybrid: bool) -> None:
        super().__init__()
        self.hybrid = hybrid
        self.conv = StdConv(in_channels, width, 7, stride=2, same=hybrid)
        self.norm = nn.GroupNorm(32, width, eps=1e-6) if hybrid else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, width, H / 4, W / 4]."""
        if self.hybrid:
            images = F.relu(self.norm(self.conv(images)))
            return F.max_pool2d(pad_same(images, 3, 2, value=float("-inf")), 3, 2)
        # Zeros, not minus infinity: the published weights were trained with them.
        return F.max_pool2d(F.pad(self.conv(images), (1, 1, 1, 1)), 3, 2)


class HybridBackbone(nn.Module):
    """ResNet below a hybrid's patches: [B, C, H, W] -> [B, C', H / stride, W / stride]."""

    def __init__(self, in_channels: int, blocks: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.stem = Stem(in_channels, width, hybrid=True)
        self.stages = make_stages(blocks, width, hybrid=True)

    def forward(self, images: Tensor) -> Tensor:
        """Feature map of the last stage."""
        return self.stages(self.stem(images))


class BiT(nn.Module):
    """BiT ResNet (arXiv:1912.11370), the paper's baseline: [B, C, H, W] -> [B, num_classes]."""

    def __init__(self, config: BiTConfig) -> None:
        super().__init__()
        self.config = config
        width = 64 * config.width_factor
        self.num_features = 4 * width * 2 ** (len(config.blocks) - 1)
        self.stem = Stem(config.in_channels, width, hybrid=False)
        self.stages = make_stages(config.blocks, width, hybrid=False)
        self.norm = nn.GroupNorm(32, self.num_features, eps=1e-5)
        self.head = ConvHead(self.num_features, config.num_classes)
        self.grad_checkpointing = False

    def forward(self, images: Tensor) -> Tensor:
        """Classify: [B, C, H, W] -> [B, num_classes]."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Feature map of images of any size: [B, C, H, W] -> [B, D, H / 32, W / 32]."""
        images = self.stem(images)
        for stage in self.stages:
            if self.grad_checkpointing and self.training:
                # No random state to keep: a stage draws nothing.
                images = checkpoint(stage, images, use_reentrant=False, preserve_rng_state=False)
            else:
                images = stage(images)
        return F.relu(self.norm(images))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Average and classify: [B, D, h, w] -> [B, num_classes], or [B, D] with `pre_logits`."""
        pooled = features.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each stage in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def cost(self) -> Cost:
        """Parameters and multiply-adds of this model."""
        return cost_of(self, self.config)

    @property
    def num_layers(self) -> int:
        """Layers for layer-wise decay: the stem, each bottleneck, and what follows them."""
        return sum(self.config.blocks) + 2

    def layer_of(self, name: str) -> int:
        """The layer in [0, num_layers) that parameter `name` belongs to."""
        if name.startswith("stages."):
            _, stage, _, block, *_ = name.split(".")
            return 1 + sum(self.config.blocks[: int(stage)]) + int(block)
        return 0 if name.startswith("stem.") else self.num_layers - 1


class ConvHead(nn.Module):
    """Linear head whose kernel is shaped like a 1x1 convolution's, as in the published weights."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.fc = _ConvClasses(width, num_classes, 1) if num_classes else nn.Identity()

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, D] -> float32 [B, num_classes]."""
        return self.fc(pooled)


class _ConvClasses(nn.Conv2d):
    """A 1x1 convolution over one pixel, which is a linear layer: [B, D] -> float32 [B, C]."""

    def forward(self, input: Tensor) -> Tensor:
        """Classify: [B, D] of any dtype -> float32 [B, num_classes]."""
        return float32_logits(input, self.weight.flatten(1), self.bias)
