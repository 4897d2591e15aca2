"""Resize position tables and patch kernels. The grid is passed in, never guessed from the tokens.

Three conventions for tables are in use and give different tables:

    align-corners      bilinear, corners map to corners: the paper's code (scipy zoom, order 1)
    half-pixel         bilinear, pixel centres as for images: what timm does when it reads npz files
    bicubic-antialias  bicubic with antialiasing: what timm and open_clip do between resolutions
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vit.errors import BadModel

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

    Raises BadModel if the table does not have P + h*w rows.
    """
    rows, columns = old_grid
    if table.ndim != 3 or table.shape[1] != num_prefix_tokens + rows * columns:
        raise BadModel(
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


def resize_patch_kernel(kernel: Tensor, patch_size: int) -> Tensor:
    """Resample a patch embedding [D, C, p, p] to [D, C, p', p'] (FlexiViT, arXiv:2212.08013).

    The new kernel gives the same output on resized patches as the old one on the original patches:
    exactly if patches grow, by least squares if they shrink. Resizing the kernel as if it were an
    image would not.
    """
    old = kernel.shape[-1]
    if old == patch_size:
        return kernel
    # Row i of the resized basis is column i of the matrix that resizes flattened patches.
    basis = torch.eye(old * old, dtype=torch.float64).reshape(old * old, 1, old, old)
    resized = F.interpolate(basis, size=(patch_size, patch_size), mode="bilinear")
    inverse = torch.linalg.pinv(resized.flatten(1))  # [p'^2, p^2]
    flat = kernel.double().flatten(2) @ inverse.T
    return flat.reshape(*kernel.shape[:2], patch_size, patch_size).to(kernel.dtype)
