"""The simple random crop of DeiT-III (arXiv:2204.07118, section 4.2).

The shorter side is resized to the crop's side, 4 pixels are mirrored at each border, and a square
is cut out anywhere. It shows more of the object than an Inception crop. What is cut here is the
square inside the image that has all the pixels needed; mirrored ones are copied from it afterwards.
"""

from typing import NamedTuple

import numpy as np

from storage.pixels import Box

PADDING = 4
"""Mirrored pixels at each border of the resized image."""


class Window(NamedTuple):
    """A square in the resized and padded image."""

    box: Box
    """The nearest square inside the image, in pixels of the image."""
    down: int
    """How far below that square the window lies, in pixels of the crop: -4 to 4."""
    right: int
    """How far to its right: -4 to 4."""


def window(width: int, height: int, side: int, draw: tuple[float, float]) -> Window:
    """The window of a crop of `side` pixels out of a width x height image.

    Args:
        width: of the image.
        height: of the image.
        side: of the crop.
        draw: in [0, 1), from which the vertical and the horizontal position follow.
    """
    short = min(width, height)
    columns, rows = (side * length // short for length in (width, height))  # as torchvision rounds
    across, along = width / columns, height / rows
    top, down = _position(rows, side, draw[0])
    left, right = _position(columns, side, draw[1])
    box = (left * across, top * along, (left + side) * across, (top + side) * along)
    return Window((box[0], box[1], min(box[2], width), min(box[3], height)), down, right)


def _position(length: int, side: int, draw: float) -> tuple[int, int]:
    """First pixel of the square inside the image, and what the window's own is beyond it."""
    start = int(draw * (length + 2 * PADDING - side + 1)) - PADDING
    inside = min(max(start, 0), length - side)
    return inside, start - inside


def mirrored(pixels: np.ndarray, down: int, right: int) -> np.ndarray:
    """Move the window by up to 4 pixels beyond the image: uint8 [H, W, 3] -> uint8 [H, W, 3]."""
    if not down and not right:
        return pixels
    height, width = pixels.shape[:2]
    around = ((PADDING, PADDING), (PADDING, PADDING), (0, 0))
    padded = np.pad(pixels, around, mode="reflect")
    top, left = PADDING + down, PADDING + right
    return padded[top : top + height, left : left + width]
