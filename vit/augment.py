"""What happens to a batch on the device: normalisation, and mixing neighbours (mixup, cutmix)."""

import torch
from torch import Tensor


def normalize(images: Tensor) -> Tensor:
    """Pixels to [-1, 1], channels first: uint8 [B, H, W, C] -> float32 [B, C, H, W]."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, found {images.dtype}")
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def mix_pairs(pixels: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mix samples 2i and 2i + 1 with each other, without a loop over them.

    Args:
        pixels: [B, C, H, W], B even.
        targets: distributions over the classes, [B, classes].
        draws: float64 [B, 5] on the same device: a sample's own share of the target, then the box
            (top, bottom, left, right) that it takes from its partner (cutmix, arXiv:1905.04899). An
            empty box stands for mixup (arXiv:1710.09412): the pixels are blended by the share.

    Returns:
        Mixed pixels [B, C, H, W] and targets [B, classes].
    """
    own = draws[:, 0]  # [B]
    top, bottom, left, right = draws[:, 1:, None].unbind(dim=1)  # [B, 1] each
    cut = ((bottom > top) & (right > left)).squeeze(1)  # [B]
    y, x = (torch.arange(side, device=pixels.device) for side in pixels.shape[-2:])
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)  # [B, H], [B, W]
    box = rows[:, None, :, None] & columns[:, None, None, :]  # [B, 1, H, W]
    weight = torch.where(cut, 0.0, 1.0 - own).to(pixels.dtype)[:, None, None, None]
    partner = _swapped(pixels)
    share = own.to(targets.dtype)[:, None]
    mixed = torch.where(box, partner, pixels.lerp(partner, weight))
    return mixed, share * targets + (1.0 - share) * _swapped(targets)


def _swapped(values: Tensor) -> Tensor:
    """Neighbours in each other's place: rows 0 1 2 3 -> 1 0 3 2."""
    return values.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
