"""Relative positions of BEiT (arXiv:2106.08254): a bias of attention for each offset of patches.

Every block has a table [offsets, heads], whose rows go through the differences of rows and columns
between a query's and a key's patch: (2h - 1) * (2w - 1). Tokens in front of the patches have no
place; three more rows are for what they look at, for what looks at them, and for them among
themselves.
"""

from math import prod

import torch
from torch import Tensor

from vit.config import ViTConfig
from vit.resample import Convention, resize_position_table

_OF_PREFIX = 3


def bias_rows(config: ViTConfig) -> int:
    """Rows of a block's table."""
    return prod(offsets(config.grid_size)) + (_OF_PREFIX if config.num_prefix_tokens else 0)


def bias_of_pairs(table: Tensor, grid: tuple[int, int], prefix: int) -> Tensor:
    """The bias of each pair of tokens: [offsets, heads] -> [heads, T, T], queries in rows.

    Windows of the table are views, so nothing is kept for the backward pass but shapes; an index
    [T, T] of the table's rows would be, in every block.
    """
    (rows, columns), count = grid, prod(offsets(grid))
    every = table[:count].unflatten(0, offsets(grid))  # [2h-1, 2w-1, heads]
    windows = every.unfold(0, rows, 1).unfold(1, columns, 1)  # [h, w, heads, h, w]
    pairs = windows.flip(3, 4).permute(2, 0, 1, 3, 4).flatten(3, 4).flatten(1, 2)  # [heads, L, L]
    if not prefix:
        return pairs
    ahead, behind, among = table[count:, :, None, None].unbind(0)  # each [heads, 1, 1]
    patches = rows * columns
    first = torch.cat([among.expand(-1, prefix, prefix), ahead.expand(-1, prefix, patches)], 2)
    others = torch.cat([behind.expand(-1, patches, prefix), pairs], 2)
    return torch.cat([first, others], 1)


def resize_bias_table(
    table: Tensor, old: ViTConfig, new: ViTConfig, convention: Convention
) -> Tensor:
    """Resize the offsets of a table [offsets, heads] as a position table's grid; keep the rest."""
    before, after = offsets(old.grid_size), offsets(new.grid_size)
    grid, rest = table[: prod(before)], table[prod(before) :]
    resized = resize_position_table(grid[None], before, after, convention=convention)
    return torch.cat([resized[0], rest])


def offsets(grid: tuple[int, int]) -> tuple[int, int]:
    """Number of differences of rows, and of columns, between two patches of a grid."""
    rows, columns = grid
    return 2 * rows - 1, 2 * columns - 1
