"""Image bytes -> the uint8 RGB crop a stage asks for, with only the work that crop needs.

The header is read first: format, size and orientation are known, limited and refused by name before
a pixel is decoded. A JPEG is then decoded at the coarsest DCT scale that still covers the crop
(`pixels.py`). Crop and flip are a pure function of (seed, epoch, index): not of the process that
happens to decode.
"""

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from storage.errors import BadImage, BadInput
from storage.pixels import SIDEWAYS, Box, cut

FORMATS = ("JPEG", "PNG", "WEBP")  # an allow-list: PIL would also run Ghostscript for EPS
MAX_BYTES = 64 << 20
MAX_PIXELS = 89_478_485  # where PIL starts to warn; a quarter of a gigabyte of RGB
_ORIENTATION = 0x0112
_MODES = ("L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "1")
_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Which part of an image becomes the sample, at which size."""

    image_size: int
    """Height and width of the result, in pixels."""
    kind: Literal["random", "center", "resize"] = "random"
    """`random`: a random area and aspect (Inception crop). `center`: the centre of the image whose
    shorter side was resized. `resize`: the whole image, its aspect not kept."""
    area: tuple[float, float] = (0.05, 1.0)
    """`random`: bounds of the crop's share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """`random`: bounds of width over height, drawn log-uniformly."""
    flip: bool = True
    """`random`: mirror left and right with probability 1/2."""
    resize_fraction: float = 224 / 256
    """`center`: the crop's side over the shorter side of the resized image; 1 crops the least."""

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise BadInput(f"image_size {self.image_size} must be at least 1")
        if self.kind not in ("random", "center", "resize"):
            raise BadInput(f"kind {self.kind!r} is not random, center or resize")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise BadInput(f"area {self.area} must be ascending within (0, 1]")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise BadInput(f"ratio {self.ratio} must be ascending and positive")
        if not 0 < self.resize_fraction <= 1:
            raise BadInput(f"resize_fraction {self.resize_fraction} must be within (0, 1]")


def decode(data: bytes, crop: Crop, *, seed: int, epoch: int, index: int) -> np.ndarray:
    """Decode one image -> uint8 [image_size, image_size, 3], RGB.

    Grayscale, palette, CMYK, transparency (dropped) and 16-bit grayscale become RGB; EXIF
    orientation is applied. Raises BadImage for anything else, for animations and for images beyond
    the limits.
    """
    image = _open(data)
    try:
        width, height, orientation = _size_and_orientation(image)
        box, flip = crop_box(crop, width, height, seed=seed, epoch=epoch, index=index)
        return cut(
            image,
            data,
            box,
            crop.image_size,
            orientation=orientation,
            snap=crop.kind == "random",  # where it lies was drawn anyway
            flip=flip,
        )
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # truncated or broken data
        raise BadImage(f"{image.format} does not decode: {error}") from None


def crop_box(
    crop: Crop, width: int, height: int, *, seed: int, epoch: int, index: int
) -> tuple[Box, bool]:
    """The box to cut out of a width x height image, and whether to mirror it."""
    if crop.kind == "resize":
        return (0.0, 0.0, float(width), float(height)), False
    if crop.kind == "center":
        side = min(width, height) * crop.resize_fraction
        left, upper = (width - side) / 2, (height - side) / 2
        return (left, upper, left + side, upper + side), False
    draw = _draws(seed, epoch, index)
    flip = crop.flip and bool(draw[0] < 0.5)
    return _random_box(crop, width, height, draw[1:].reshape(_ATTEMPTS, 4)), flip


def _random_box(crop: Crop, width: int, height: int, draw: np.ndarray) -> Box:
    """Inception crop as torchvision's RandomResizedCrop has it: draw [attempts, 4] in [0, 1)."""
    low, high = math.log(crop.ratio[0]), math.log(crop.ratio[1])
    for area, ratio, x, y in draw.tolist():
        pixels = width * height * (crop.area[0] + area * (crop.area[1] - crop.area[0]))
        aspect = math.exp(low + ratio * (high - low))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, upper = math.floor(x * (width - w + 1)), math.floor(y * (height - h + 1))
            return (float(left), float(upper), float(left + w), float(upper + h))
    # no draw fitted (a very long image): the largest central part of a permitted aspect
    aspect = min(max(width / height, crop.ratio[0]), crop.ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    left, upper = (width - w) // 2, (height - h) // 2
    return (float(left), float(upper), float(left + w), float(upper + h))


def _draws(seed: int, epoch: int, index: int) -> np.ndarray:
    """Uniform numbers in [0, 1) that belong to one sample in one epoch: float64 [1 + attempts * 4].

    Philox is a counter: (seed, epoch) is its key, the sample its place. Its raw words are the same
    in every numpy release, which the methods of Generator do not promise (NEP 19).
    """
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)  # of a list numpy might make floats
    philox = np.random.Philox(key=key, counter=[0, 0, index, 0])
    return (philox.random_raw(1 + _ATTEMPTS * 4) >> np.uint64(11)) * 2.0**-53


def probe(data: bytes) -> tuple[int, int]:
    """Width and height, without decoding.

    Raises BadImage for what `decode` would refuse by the header, and for data that lack their end.
    """
    image = _open(data)
    if not _ends(data, image.format):
        raise BadImage(f"{image.format} without its end: truncated")
    return image.size


def _ends(data: bytes, kind: str | None) -> bool:
    """Whether the end mark is there; what some cameras write behind it does no harm."""
    if kind == "JPEG":  # end of image behind the last start of scan: a scan holds neither mark
        return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if kind == "PNG":
        return b"IEND" in data[-4096:]
    return int.from_bytes(data[4:8], "little") + 8 <= len(data)  # RIFF counts its bytes


def _open(data: bytes) -> Image.Image:
    """Read the header. Raises BadImage."""
    if len(data) > MAX_BYTES:
        raise BadImage(f"{len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImage(f"not a {', '.join(FORMATS)} image: it starts with {data[:8]!r}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadImage(f"its header does not read: {error}") from None
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"{image.width}x{image.height} pixels, the limit is {MAX_PIXELS}")
    if getattr(image, "is_animated", False):
        raise BadImage(f"an animation of {getattr(image, 'n_frames', '?')} frames")
    if image.mode not in _MODES and not image.mode.startswith("I;16"):
        raise BadImage(f"pixels of mode {image.mode!r} are not handled")
    return image


def _size_and_orientation(image: Image.Image) -> tuple[int, int, int]:
    """Width and height as a viewer shows them, and the EXIF orientation (1: upright)."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation in SIDEWAYS:
        return image.height, image.width, orientation
    return image.width, image.height, orientation
