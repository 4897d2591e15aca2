"""Make large images smaller: `pack.py --shorter-side`. Pillow decodes, resizes and encodes.

Pillow's resize of 8-bit pixels and libjpeg-turbo compute in integers, so equal input gives equal
bytes on every machine with the same versions; the versions are in `Resized.library`.
"""

import io
import socket

import numpy as np
import PIL
from PIL import Image, features

from storage.errors import BadImage, BadSource
from storage.resized import Resized

QUALITY = 90
_FILTER = "bicubic"
_GAP = 2
"""A JPEG is decoded at a coarser scale that still has this many times the wanted pixels."""


def resized_by(shorter_side: int | None, quality: int | None) -> Resized | None:
    """What this machine makes of the two options; None without a shorter side. Raises BadSource."""
    if shorter_side is None:
        if quality is not None:
            raise BadSource(
                f"--quality {quality} is the quality of resized images: say --shorter-side too"
            )
        return None
    if shorter_side < 1:
        raise BadSource(f"--shorter-side {shorter_side}: wanted at least 1 pixel")
    quality = QUALITY if quality is None else quality
    if not 1 <= quality <= 100:
        raise BadSource(f"--quality {quality}: wanted 1 to 100; {QUALITY} is the default")
    return Resized(
        shorter_side=shorter_side, quality=quality, filter=_FILTER, library=library_here()
    )


def library_here() -> str:
    """The software of this machine and its version."""
    turbo = features.version_feature("libjpeg_turbo")
    jpeg = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    return f"Pillow {PIL.__version__}, {jpeg}"


def require_library(how: Resized) -> None:
    """Raise BadSource if this node would make other bytes than the one that began."""
    here = library_here()
    if here != how.library:
        raise BadSource(
            f"node {socket.gethostname()} has {here}, packing began with {how.library}: resized "
            "images would have other bytes. Install the same versions on every node"
        )


def draft(image: Image.Image, how: Resized) -> None:
    """Ask the JPEG decoder for a coarser scale, if it is coarse enough to save work."""
    side = how.shorter_side * _GAP
    shortest = min(image.size)
    width, height = (-(-each * side // shortest) for each in image.size)
    image.draft(None, (width, height))  # does nothing for other formats


def jpeg(pixels: np.ndarray, size: tuple[int, int], how: Resized) -> bytes:
    """Resize and encode: uint8 [h, w] or [h, w, 3], upright -> bytes of a JPEG.

    `size` is that of the original, in any orientation: `pixels` may be coarser. Raises BadImage.
    """
    longer = round(max(size) * how.shorter_side / min(size))
    height, width = pixels.shape[:2]
    wanted = (longer, how.shorter_side) if width > height else (how.shorter_side, longer)
    small = Image.fromarray(pixels).resize(wanted, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    try:
        small.save(buffer, "JPEG", quality=how.quality, subsampling="4:2:0")
    except OSError as error:  # a side of more than 65,500 pixels
        raise BadImage(f"{wanted[0]}x{wanted[1]} pixels cannot be a JPEG: {error}") from None
    return buffer.getvalue()
