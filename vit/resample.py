"""Resize learned position tables. The grid is passed in, never guessed from the token count.

Three conventions are in use and give different tables:

    align-corners      bilinear, corners map to corners: the paper's code (scipy zoom, order 1)
    half-pixel         bilinear, pixel centres as images are resized: timm's reading of npz files
    bicubic-antialias  bicubic with antialiasing: timm and open_clip between sizes
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Convention = Literal["align-corners", "half-pixel", "bicubic-antialias"]

_INTERPOLATE: dict[Convention, dict[str, Any]] = {
    "align-corners": {"mode": "bilinear", "align_corners": True},
    "half-pixel": {"mode": "bilinear", "align_corners": False},
    "bicubic-antialias": {"mode": "bicubic", "align_corners": False, "antialias": True},
}


def resize_position_table(
    table: Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    num_prefix_tokens: int = 0,
    convention: Convention = "align-corners",
) -> Tensor:
    """Resize [1, P + h*w, D] to [1, P + h'*w', D]; the P prefix rows stay as they are.

    Raises ValueError if the table has not P + h*w rows.
    """
    rows, columns = old_grid
    if table.ndim != 3 or table.shape[1] != num_prefix_tokens + rows * columns:
        raise ValueError(
            f"position table {tuple(table.shape)} does not hold {num_prefix_tokens} prefix rows "
            f"and a {rows}x{columns} grid"
        )
    if old_grid == new_grid:
        return table
    prefix, patches = table.split([num_prefix_tokens, rows * columns], dim=1)
    image = patches.reshape(1, rows, columns, -1).permute(0, 3, 1, 2)  # [1, D, h, w]
    image = resize_image(image, new_grid, convention)
    patches = image.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)  # [1, h'*w', D]
    return torch.cat([prefix, patches], dim=1)


def resize_image(image: Tensor, size: tuple[int, int], convention: Convention) -> Tensor:
    """Resize [1, D, h, w] to [1, D, *size] in float32.

    Float32 because antialiased bicubic has no bfloat16 kernel on the CPU.
    """
    if convention not in _INTERPOLATE:
        raise ValueError(f"unknown convention {convention!r}; known: {sorted(_INTERPOLATE)}")
    return F.interpolate(image.float(), size=size, **_INTERPOLATE[convention])
