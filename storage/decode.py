"""Decode image bytes into a uint8 RGB crop, with only the work that this crop needs.

The header is read first: format, size and orientation are checked against the limits before a pixel
is decoded. A JPEG is then decoded at the coarsest DCT scale that still covers the crop
(`pixels.py`). Crop and flip are a pure function of (seed, epoch, index): they do not depend on the
process that decodes.
"""

import io
import math
import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from storage.errors import BadImage, BadInput
from storage.jpeg_header import plain_jpeg_size
from storage.pixels import JPEGS, SIDEWAYS, Box, Interpolation, cut
from storage.simple_crop import mirrored, window

FORMATS = ("JPEG", "PNG", "WEBP")  # an allow-list: PIL would also run Ghostscript for EPS
MAX_BYTES = 64 << 20
MAX_PIXELS = 89_478_485  # a quarter of a gigabyte of RGB; the packer's default limit
# Limit of `decode`. The packer's limit is the real guard, and can be raised up to this one.
CEILING_PIXELS = 1 << 29
Image.MAX_IMAGE_PIXELS = CEILING_PIXELS  # Pillow's own limit is lower
# Pillow prints warnings about EXIF blocks that it cannot read completely. Only the orientation is
# read from EXIF here, and an image that cannot be decoded is a BadImage anyway.
warnings.filterwarnings("ignore", module=r"PIL\.")
ORIENTATION = 0x0112  # of EXIF
_MODES = ("L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "1")
_ATTEMPTS = 10


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Part of an image that becomes the sample, and its size."""

    image_size: int
    """Height and width of the result, in pixels."""
    kind: Literal["random", "simple", "center", "resize"] = "random"
    """Kind of crop. `random`: a random area and aspect ratio (Inception crop). `simple`: a random
    square of the shorter side's length (`storage.simple_crop`). `center`: the centre of the image
    after resizing its shorter side. `resize`: the whole image, whatever its aspect ratio."""
    area: tuple[float, float] = (0.05, 1.0)
    """For `random`, bounds of the crop's share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """For `random`, bounds of width divided by height, drawn log-uniformly."""
    flip: bool = True
    """For `random` and `simple`, whether to mirror left and right with probability 1/2."""
    resize_fraction: float = 224 / 256
    """For `center`, the crop's side divided by the shorter side of the resized image; 1 crops
    least."""
    interpolation: Interpolation = "bicubic"
    """Filter that resizes; it is antialiased."""

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise BadInput(f"image_size must be at least 1, found {self.image_size}")
        if self.kind not in ("random", "simple", "center", "resize"):
            raise BadInput(f"kind must be random, simple, center or resize, found {self.kind!r}")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise BadInput(f"area must be ascending within (0, 1], found {self.area}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise BadInput(f"ratio must be ascending and positive, found {self.ratio}")
        if not 0 < self.resize_fraction <= 1:
            raise BadInput(f"resize_fraction must be within (0, 1], found {self.resize_fraction}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise BadInput(f"interpolation must be bicubic or bilinear, found {self.interpolation}")


def decode(data: bytes, crop: Crop, *, seed: int, epoch: int, index: int) -> np.ndarray:
    """Decode one image -> uint8 [image_size, image_size, 3], RGB.

    Grayscale, palette, CMYK, transparency (dropped) and 16-bit grayscale become RGB; EXIF
    orientation is applied. Raises BadImage for anything else, for animations and for images beyond
    the limits.
    """
    image = open_image(data, max_pixels=CEILING_PIXELS)
    try:
        width, height, orientation = _size_and_orientation(image)
        box, flip = crop_box(crop, width, height, seed=seed, epoch=epoch, index=index)
        pixels = cut(
            image,
            data,
            box,
            crop.image_size,
            orientation=orientation,
            snap=crop.kind == "random",  # its position is random anyway
            flip=flip,
            interpolation=crop.interpolation,
        )
    except MemoryError:
        raise
    except Exception as error:  # bytes from outside may make a decoder raise anything
        raise BadImage(f"{image.format} cannot be decoded: {describe_error(error)}") from None
    if crop.kind != "simple":
        return pixels
    draw = _draws(seed, epoch, index)
    _, down, right = window(width, height, crop.image_size, (draw[1], draw[2]))
    return mirrored(pixels, down, -right if flip else right)


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
    if crop.kind == "simple":
        return window(width, height, crop.image_size, (draw[1], draw[2])).box, flip
    return _random_box(crop, width, height, draw[1:].reshape(_ATTEMPTS, 4)), flip


def _random_box(crop: Crop, width: int, height: int, draw: np.ndarray) -> Box:
    """Inception crop as in torchvision's RandomResizedCrop: draw [attempts, 4] in [0, 1)."""
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

    Philox is counter-based: (seed, epoch) is the key, the sample's index the counter. Its raw words
    are the same in every numpy release, which the methods of Generator do not promise (NEP 19).
    """
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)  # from a list numpy might make floats
    philox = np.random.Philox(key=key, counter=[0, 0, index, 0])
    return (philox.random_raw(1 + _ATTEMPTS * 4) >> np.uint64(11)) * 2.0**-53


class Header(NamedTuple):
    """Content of an image's header."""

    format: str
    width: int
    height: int
    mode: str
    """Pillow's name for the pixel format."""
    frames: int = 1
    """Number of pictures in the file. Only an MPO may have several: the first is the image."""


def probe(data: bytes, *, max_pixels: int = MAX_PIXELS, advice: str = "") -> Header:
    """Read the header without decoding. `advice` is the option that raises the limit.

    Raises BadImage if `decode` would refuse the header, and if the end of the data is missing.
    """
    size = plain_jpeg_size(data)  # a quarter of the time that Pillow takes, for most files
    if size is not None and len(data) <= MAX_BYTES:
        width, height, mode = size
        _check_pixels(width, height, max_pixels, advice)
        found = Header("JPEG", width, height, mode)
    else:
        image = open_image(data, max_pixels=max_pixels, advice=advice)
        found = Header(
            format=image.format or "",
            width=image.width,
            height=image.height,
            mode=image.mode,
            frames=getattr(image, "n_frames", 1),
        )
    if not _ends(data, found.format):
        raise BadImage(f"{found.format} is truncated: its end is missing")
    return found


def open_image(
    data: bytes, *, max_pixels: int, formats: tuple[str, ...] = FORMATS, advice: str = ""
) -> Image.Image:
    """Read the header of an image in one of the given formats (Pillow's names). Raises BadImage."""
    if len(data) > MAX_BYTES:
        raise BadImage(f"has {len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        frames = getattr(image, "n_frames", 1) if getattr(image, "is_animated", False) else 1
    except UnidentifiedImageError:
        raise BadImage(f"not a {', '.join(formats)} image: it starts with {data[:8]!r}") from None
    except MemoryError:
        raise
    except Exception as error:
        raise BadImage(f"its header cannot be read: {describe_error(error)}") from None
    _check_pixels(image.width, image.height, max_pixels, advice)
    if frames > 1 and image.format not in JPEGS:
        raise BadImage(
            f"a TIFF of {frames} pages: wanted one"
            if image.format == "TIFF"
            else f"an animation of {frames} frames"
        )
    if image.mode not in _MODES and not image.mode.startswith("I;16"):
        raise BadImage(f"pixels of mode {image.mode!r} are not supported")
    return image


def describe_error(error: Exception) -> str:
    """Describe a decoder's error in one line; an error without a message by its class name."""
    text = " ".join(str(error).split())
    known = isinstance(error, OSError | SyntaxError | ValueError | EOFError) and text
    return text if known else f"{type(error).__name__} {text}".rstrip()


def _check_pixels(width: int, height: int, limit: int, advice: str) -> None:
    if width * height > limit:
        remedy = f": raise it with {advice}" if advice else ""
        raise BadImage(f"has {width}x{height} pixels, the limit is {limit}{remedy}")


def _ends(data: bytes, kind: str) -> bool:
    """Whether the end mark is there. Data after it, as some cameras write, does no harm."""
    if kind in JPEGS:  # end of image after the last start of scan: scan data has neither mark
        end = data.rfind(b"\xff\xd9")
        return end >= 0 and data.find(b"\xff\xda", end) < 0
    if kind == "PNG":
        return b"IEND" in data[-4096:]
    return int.from_bytes(data[4:8], "little") + 8 <= len(data)  # RIFF counts its bytes


def _size_and_orientation(image: Image.Image) -> tuple[int, int, int]:
    """Width and height as a viewer shows them, and the EXIF orientation (1: upright)."""
    orientation = image.getexif().get(ORIENTATION, 1)
    if orientation in SIDEWAYS:
        return image.height, image.width, orientation
    return image.width, image.height, orientation
