"""Turn an opened image into the pixels of a crop: libjpeg-turbo and torch's resize.

Both are about 1.5 times as fast as Pillow. simplejpeg contains libjpeg-turbo; `jpeg_part.py`
decodes less where a node has the library itself. Pillow does what they cannot: formats other than
JPEG, CMYK, rotated photographs, and boxes that are not on whole pixels (those of evaluation, where
the reference's numbers count). torch's resize of uint8 is the same filter as Pillow's, within two
grey levels (test).
"""

import math
import os
from types import ModuleType
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from storage.jpeg_header import scan_is_whole
from storage.jpeg_part import Part, decode_part

JPEGS = ("JPEG", "MPO")  # an MPO is a JPEG followed by others
Interpolation = Literal["bicubic", "bilinear"]
Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels of the whole image
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
# Operation that turns each EXIF orientation upright. ImageOps.exif_transpose is not used: it
# rewrites the whole EXIF block, and raises TypeError or struct.error for tags of unexpected types.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def cut(
    image: Image.Image,
    data: bytes,
    box: Box,
    side: int,
    *,
    orientation: int,
    snap: bool,
    flip: bool,
    interpolation: Interpolation = "bicubic",
) -> np.ndarray:
    """Decode, turn upright, cut, resize, mirror -> uint8 [side, side, 3].

    A JPEG is decoded at the coarsest DCT scale that still has `side` pixels across the box. With
    `snap` the box then moves to whole pixels of that scale. Raises what Pillow raises.
    """
    width, height = image.size
    whole = (height, width) if orientation in SIDEWAYS else (width, height)
    shrink = max(1.0, min(box[2] - box[0], box[3] - box[1]) / side)
    pixels = None
    if orientation == 1 and image.format in JPEGS and image.mode in ("L", "RGB"):
        eighths, scaled = _scaled(whole, shrink)
        if snap:
            within = _snapped(_moved(box, whole, scaled), *scaled)
            pixels = decode_part(data, within, eighths)
            if pixels is not None:
                height, width = pixels.shape[:2]
                return _resize(pixels, (0, 0, width, height), side, flip, interpolation)
        pixels = _jpeg(data, scaled)
    if pixels is None:
        pixels = _any(image, shrink, orientation)
    height, width = pixels.shape[:2]
    within = _moved(box, whole, (width, height))
    if snap:
        within = _snapped(within, width, height)
    return _resize(pixels, within, side, flip, interpolation)


def _scaled(whole: Size, shrink: float) -> tuple[int, Size]:
    """The smallest number of eighths, and the size it gives, that covers whole / shrink.

    Five to seven eighths are left out: they take longer than the whole size.
    """
    for eighths in (1, 2, 3, 4):
        scaled = (-(-whole[0] * eighths // 8), -(-whole[1] * eighths // 8))
        if all(have >= math.ceil(full / shrink) for have, full in zip(scaled, whole, strict=True)):
            return eighths, scaled
    return 8, whole


def _moved(box: Box, whole: Size, scaled: Size) -> Box:
    """The box of an image that the decoder has scaled."""
    x, y = scaled[0] / whole[0], scaled[1] / whole[1]
    # min() because a scaled size is rounded
    return (box[0] * x, box[1] * y, min(box[2] * x, scaled[0]), min(box[3] * y, scaled[1]))


def _jpeg(data: bytes, scaled: Size) -> np.ndarray | None:
    """Decode with simplejpeg: uint8 [h, w, 3], or None to leave it to Pillow.

    An image with damaged pixels is decoded as it is. Any other damage is left to Pillow, whose
    error says what is wrong.
    """
    for strict in (True, False):
        try:
            return simplejpeg.decode_jpeg(
                data, min_width=scaled[0], min_height=scaled[1], min_factor=2, strict=strict
            )
        except ValueError:  # truncated, or a flaw that Pillow tolerates
            if not scan_is_whole(data):
                break
    return None


def _any(image: Image.Image, shrink: float, orientation: int) -> np.ndarray:
    """Decode with Pillow, upright: uint8 [h, w, 3]."""
    width, height = image.size
    if image.format in JPEGS:
        image.draft(None, (math.ceil(width / shrink), math.ceil(height / shrink)))
    upright = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
    return np.asarray(as_rgb(upright))


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any accepted mode to RGB; 16-bit grey levels keep their upper 8 bits."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns about a palette with transparency otherwise
    return image if image.mode == "RGB" else image.convert("RGB")


def _snapped(box: Box, width: int, height: int) -> Part:
    left, upper = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    return (left, upper, max(round(box[2]), left + 1), max(round(box[3]), upper + 1))


def _torch() -> ModuleType:
    """Import torch on first use: planning a stream does not need it and starts a second sooner.

    Ray interrupts tasks whose results are no longer needed, perhaps during this import. Half of
    torch is imported then, the rest can never be, and every later task of this process would fail.
    Therefore the process ends.
    """
    try:
        import torch
    except ImportError:
        raise
    except BaseException:
        os._exit(1)
    return torch


def _resize(
    pixels: np.ndarray, box: Box, side: int, flip: bool, interpolation: Interpolation
) -> np.ndarray:
    """Resize with antialiasing: uint8 [h, w, 3] -> uint8 [side, side, 3]."""
    left, upper, right, lower = map(int, box)
    if (left, upper, right, lower) != box:
        pillow = Image.Resampling[interpolation.upper()]
        image = Image.fromarray(pixels).resize((side, side), pillow, box=box)
        return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image)
    torch = _torch()
    # A contiguous, writable copy with the batch axis first: torch's fast path.
    whole = torch.from_numpy(pixels[upper:lower, left:right].copy())[None]  # [1, h, w, 3]
    part = whole.permute(0, 3, 1, 2)  # [1, 3, h, w], channels last in memory
    resized = torch.nn.functional.interpolate(
        part, (side, side), mode=interpolation, antialias=True
    )
    mirrored = resized.flip(3) if flip else resized  # takes a tenth of numpy's time
    return mirrored[0].permute(1, 2, 0).numpy()  # [side, side, 3]
