"""Images as rows of pixels, one for each patch, and back."""

from torch import Tensor

from vit.config import ViTConfig


def patch_pixels(images: Tensor, config: ViTConfig) -> Tensor:
    """The pixels of each patch, channels last: [B, C, H, W] -> [B, L, p*p*C].

    Pixels beyond the last whole patch are left out, as the patch embedding does.
    """
    side, (rows, columns) = config.patch_pixels, config.grid_size
    whole = images[:, :, : rows * side, : columns * side]
    cut = whole.unflatten(3, (columns, side)).unflatten(2, (rows, side))  # [B, C, h, p, w, p]
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def painted(images: Tensor, where: Tensor, pixels: Tensor, config: ViTConfig) -> Tensor:
    """Images with the pixels of some patches replaced.

    Args:
        images: [B, C, H, W].
        where: the patches, int64 [B, n].
        pixels: theirs, [B, n, p*p*C], as `patch_pixels` orders them.
        config: whose patches they are.
    """
    side, (rows, columns) = config.patch_pixels, config.grid_size
    flat = patch_pixels(images, config)
    index = where[:, :, None].expand(-1, -1, flat.shape[-1])
    flat = flat.scatter(1, index, pixels.to(flat.dtype))
    cut = flat.unflatten(1, (rows, columns)).unflatten(3, (side, side, -1))  # [B, h, w, p, p, C]
    made = images.clone()
    made[:, :, : rows * side, : columns * side] = (
        cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
    )
    return made
