"""Draw a batch of images as a grid."""

import io

import torch
from PIL import Image
from torch import Tensor

SIDE = 1024  # pixels of the picture, about


def image_grid(images: Tensor, *, most: int = 64, columns: int | None = None) -> bytes:
    """A grid of training images as the network sees them: [B, 3, H, W] in [-1, 1] -> PNG bytes.

    Without a number of columns it is about square.
    """
    images = images[:most].float().cpu()
    columns = columns or max(1, int(len(images) ** 0.5))
    images = images[: len(images) // columns * columns]
    pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)  # [B, 3, H, W]
    pixels = torch.nn.functional.pad(pixels, (1, 1, 1, 1), value=255)
    rows = [torch.cat(list(row), dim=2) for row in pixels.split(columns)]  # [3, H, columns * W]
    grid = torch.cat(rows, dim=1).permute(1, 2, 0).numpy()  # [rows * H, columns * W, 3]
    picture = Image.fromarray(grid)
    times = max(1, SIDE // max(picture.size))
    picture = picture.resize(
        (picture.width * times, picture.height * times), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
