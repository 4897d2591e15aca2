"""Rotary positions in two dimensions: queries and keys are turned by their place in the grid.

Half of a head's channels turn with the row, the other half with the column. Both kinds have the
same periods. An axial rotation (EVA-02) counts patches and turns neighbouring channels together;
DINOv3's has coordinates from -1 to 1 and turns a channel with that half a head further on. Prefix
tokens have no place and are not turned.
"""

import math

import torch
from torch import Tensor

from vit.config import ViTConfig


def rotary_table(config: ViTConfig) -> Tensor:
    """Sine and cosine for each channel of a head: [2, T, d]; 0 and 1 for prefix tokens."""
    size = config.width // config.heads
    rows, columns = (_coordinates(side, config) for side in config.grid_size)
    places = torch.cartesian_prod(rows, columns).reshape(-1, 2)  # [h*w, 2], row by row
    exponents = torch.arange(size // 4, dtype=torch.float32) / (size // 4)
    angles = places[:, :, None] / config.rotary_temperature**exponents  # [h*w, 2, d/4]
    angles = angles.flatten(1)
    turns = angles.repeat(1, 2) if config.rotary == "dinov3" else angles.repeat_interleave(2, dim=1)
    table = torch.stack([turns.sin(), turns.cos()])  # [2, h*w, d]
    still = torch.tensor([0.0, 1.0])[:, None, None].expand(2, config.num_prefix_tokens, size)
    return torch.cat([still, table], dim=1)


def rotate(heads: Tensor, table: Tensor, *, halves: bool) -> Tensor:
    """Turn queries or keys: [B, h, T, d] by the first T places of [2, T', d] -> [B, h, T, d]."""
    sine, cosine = table[:, : heads.shape[-2]].unbind(0)
    if halves:
        first, second = heads.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
    else:
        turned = torch.stack([-heads[..., 1::2], heads[..., ::2]], dim=-1).flatten(-2)
    return (heads * cosine + turned * sine).to(heads.dtype)


def _coordinates(side: int, config: ViTConfig) -> Tensor:
    """Where the patches along one side of the grid are: float32 [side]."""
    at = torch.arange(side, dtype=torch.float32)
    if config.rotary == "dinov3":
        return (2 * (at + 0.5) / side - 1) * (2 * math.pi)
    return at / side * config.rotary_reference if config.rotary_reference else at
