"""From images to tokens: patches, class and register tokens, position.

A learned-2d table has no rows for the prefix tokens: they are learned themselves and get no
position. The sincos and rotary tables are buffers that are not saved; they are computed again from
the grid.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit.config import ViTConfig
from vit.layers import new_parameter
from vit.resnet import HybridBackbone


class PatchProjection(nn.Conv2d):
    """A convolution whose stride is its kernel, computed as a matrix product.

    Its weights have the names and shapes of a convolution's. The product needs no convolution
    library: cuDNN is slow for kernels of 3 channels in bfloat16, and not deterministic.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Project every patch: [B, C, H, W] -> [B, h*w, D]; pixels beyond the last whole patch
        are ignored."""
        batch, channels, height, width = input.shape
        side = self.kernel_size[0]
        rows, columns = height // side, width // side
        patches = input[:, :, : rows * side, : columns * side]
        patches = patches.reshape(batch, channels, rows, side, columns, side)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
        return F.linear(patches, self.weight.flatten(1), self.bias)  # [B, h*w, C*p*p] -> [.., D]


class PatchEmbed(nn.Module):
    """Cut into patches and project: [B, C, H, W] -> [B, h*w, D].

    In a hybrid the patches are cut from the feature map of a ResNet, `backbone`.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        channels, patch = config.in_channels, config.patch_size
        self.backbone: HybridBackbone | None = None
        if config.stem_blocks:
            stem_width = 64 * config.stem_width_factor
            self.backbone = HybridBackbone(channels, config.stem_blocks, stem_width)
            channels = 4 * stem_width * 2 ** (len(config.stem_blocks) - 1)
        projection = nn.Conv2d if config.stem_blocks else PatchProjection
        self.proj = projection(
            channels, config.width, kernel_size=patch, stride=patch, bias=config.patch_bias
        )

    def forward(self, images: Tensor) -> Tensor:
        """Project every patch: [B, C, H, W] -> [B, h*w, D]."""
        if self.backbone is not None:
            return self.proj(self.backbone(images)).flatten(2).transpose(1, 2)
        return self.proj(images)


class TokenEmbed(nn.Module):
    """Mixin of the model: holds class, distillation and register tokens and the position tables.

    Its tensors have timm's names, so they must be attributes of the model itself, not of a child.
    """

    cls_token: nn.Parameter | None
    dist_token: nn.Parameter | None
    reg_token: nn.Parameter | None
    pos_embed: nn.Parameter | None
    pos_embed_y: nn.Parameter | None
    pos_embed_x: nn.Parameter | None
    pos_table: Tensor | None
    rotary_table: Tensor | None

    def make_tokens(self, config: ViTConfig) -> None:
        """Register the tensors that `config` asks for, all others as None."""
        width, (rows, columns) = config.width, config.grid_size
        self.cls_token = new_parameter(1, 1, width) if config.pool == "token" else None
        self.dist_token = new_parameter(1, 1, width) if config.distilled else None
        self.reg_token = new_parameter(1, config.registers, width) if config.registers else None
        learned = dict.fromkeys(("pos_embed", "pos_embed_y", "pos_embed_x"))
        if config.pos_embed == "learned-1d":
            prefix = config.num_prefix_tokens if config.pos_embed_prefix else 0
            learned["pos_embed"] = new_parameter(1, prefix + rows * columns, width)
        elif config.pos_embed == "learned-2d":
            learned["pos_embed_y"] = new_parameter(1, rows, 1, width // 2)
            learned["pos_embed_x"] = new_parameter(1, 1, columns, width // 2)
        for name, parameter in learned.items():
            self.register_parameter(name, parameter)
        sincos = config.pos_embed == "sincos-2d"
        table = torch.empty(1, rows * columns, width) if sincos else None
        self.register_buffer("pos_table", table, persistent=False)
        size = width // config.heads
        turned = torch.empty(2, config.num_tokens, size) if config.rotary != "none" else None
        self.register_buffer("rotary_table", turned, persistent=False)

    def add_tokens(self, patches: Tensor) -> Tensor:
        """Add positions and prepend class and register tokens: [B, L, D] -> [B, P + L, D]."""
        batch, num_patches, _ = patches.shape
        prefix = [
            token.expand(batch, -1, -1)
            for token in (self.cls_token, self.dist_token, self.reg_token)
            if token is not None
        ]
        if self.pos_embed is not None and self.pos_embed.shape[1] > num_patches:
            return torch.cat([*prefix, patches], dim=1) + self.pos_embed
        if self.pos_embed is not None:
            patches = patches + self.pos_embed
        elif self.pos_table is not None:
            patches = patches + self.pos_table.to(patches.dtype)
        elif self.pos_embed_y is not None and self.pos_embed_x is not None:
            rows, columns = self.pos_embed_y.shape[1], self.pos_embed_x.shape[2]
            y = self.pos_embed_y.expand(-1, -1, columns, -1)
            x = self.pos_embed_x.expand(-1, rows, -1, -1)
            patches = patches + torch.cat([x, y], dim=-1).flatten(1, 2)  # [1, h, w, D] -> [1, L, D]
        return torch.cat([*prefix, patches], dim=1) if prefix else patches


def sincos_table(grid: tuple[int, int], width: int, *, temperature: float = 10_000.0) -> Tensor:
    """Fixed 2-D sine-cosine positions as in big_vision (arXiv:2205.01580): [1, h*w, D].

    The four quarters of a row are sin x, cos x, sin y, cos y.
    """
    rows, columns = grid
    # Computed in float64, as the reference does: angles are as large as the grid's side.
    omega = torch.arange(width // 4, dtype=torch.float64) / max(width // 4 - 1, 1)
    omega = 1.0 / temperature**omega
    y = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)[:, None] * omega
    x = torch.arange(columns, dtype=torch.float64).repeat(rows)[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()[None]
