"""Relative positions of BEiT (arXiv:2106.08254): a bias of attention for each offset of patches.

Every block has a table [offsets, heads], whose rows go through the differences of rows and columns
between a query's and a key's patch: (2h - 1) * (2w - 1). Tokens in front of the patches have no
place; three more rows are for what they look at, for what looks at them, and for them among
themselves.
"""

import torch
from torch import Tensor

from vit.config import ViTConfig
from vit.resample import Convention, resize_position_table

_OF_PREFIX = 3


def bias_rows(config: ViTConfig) -> int:
    """Rows of a block's table."""
    rows, columns = _offsets(config)
    return rows * columns + (_OF_PREFIX if config.num_prefix_tokens else 0)


def bias_index(config: ViTConfig) -> Tensor:
    """The row of the table for each query and key: int32 [T, T]."""
    rows, columns = config.grid_size
    prefix, count = config.num_prefix_tokens, bias_rows(config)
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).reshape(-1, 2)
    offset = place[:, None] - place[None] + torch.tensor([rows - 1, columns - 1])  # [L, L, 2]
    index = torch.empty(config.num_tokens, config.num_tokens, dtype=torch.int32)
    index[prefix:, prefix:] = offset[..., 0] * (2 * columns - 1) + offset[..., 1]
    index[:prefix, prefix:] = count - 3
    index[prefix:, :prefix] = count - 2
    index[:prefix, :prefix] = count - 1
    return index


def resize_bias_table(
    table: Tensor, old: ViTConfig, new: ViTConfig, convention: Convention
) -> Tensor:
    """Resize the offsets of a table [offsets, heads] as a position table's grid; keep the rest."""
    rows, columns = _offsets(old)
    offsets, rest = table[: rows * columns], table[rows * columns :]
    resized = resize_position_table(
        offsets[None], (rows, columns), _offsets(new), convention=convention
    )
    return torch.cat([resized[0], rest])


def _offsets(config: ViTConfig) -> tuple[int, int]:
    rows, columns = config.grid_size
    return 2 * rows - 1, 2 * columns - 1
