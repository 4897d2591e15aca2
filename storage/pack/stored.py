"""Bytes of an image as stored in a tar: the original ones, a lossless copy, or a smaller JPEG.

JPEG, PNG and WebP are stored as they are. Other formats become PNG, which is what the stream reads:
without compression (`png.py`), so that equal input stays equal bytes. If the rule says so, images
larger than a given size become JPEGs of that size (`shrink.py`). What was done is a note.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from storage.decode import (
    CEILING_PIXELS,
    FORMATS,
    MAX_BYTES,
    MAX_PIXELS,
    ORIENTATION,
    describe_error,
    open_image,
    probe,
)
from storage.errors import BadImage, BadSource
from storage.pack.png import png
from storage.pack.shrink import draft, jpeg
from storage.pack.source import suffix_of
from storage.pixels import UPRIGHT, as_rgb
from storage.resized import Resized

CONVERTED = ("BMP", "GIF", "TIFF", "AVIF", "PPM")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_MAX_PIXELS_FLAG = "--max-pixels"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One image, ready to be written."""

    suffix: str
    """jpg, png or webp."""
    data: bytes
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Rule for accepting and converting images."""

    max_pixels: int = MAX_PIXELS
    """Images of more pixels are left out."""
    gray_bits: int = 16
    """Bits in use in images of 16-bit grey levels: 12 for values up to 4095."""
    resized: Resized | None = None
    """How to make large images smaller; None to keep them."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= CEILING_PIXELS:
            raise BadSource(f"{_MAX_PIXELS_FLAG} {self.max_pixels}: wanted 1 to {CEILING_PIXELS}")
        if not 8 <= self.gray_bits <= 16:
            raise BadSource(f"--gray-bits {self.gray_bits}: wanted 8 to 16")

    def identity(self) -> str:
        """Names the rule; empty for the default one."""
        return "" if self == Rule() else str(self)

    def __call__(self, data: bytes) -> Stored:
        """Check an image by its header, convert it if need be. Raises BadImage."""
        suffix = suffix_of(data)
        if suffix is None:
            return self._converted(data)
        header = probe(data, max_pixels=self.max_pixels, advice=_MAX_PIXELS_FLAG)
        if self.resized and self.resized.applies(header.width, header.height):
            return self._shrunk(open_image(data, max_pixels=self.max_pixels), self.resized)
        if header.mode.startswith("I;16"):
            return self._sixteen_bits(data, suffix)
        notes = ()
        if header.frames > 1:
            notes = (f"first of {header.frames} pictures of an MPO taken",)
        return Stored(suffix=suffix, data=data, notes=notes)

    def _sixteen_bits(self, data: bytes, suffix: str) -> Stored:
        values = _pixels(open_image(data, max_pixels=self.max_pixels))
        if self.gray_bits < 16:
            return self._as_png(_eight_bits(values, self.gray_bits), "16-bit PNG")
        return Stored(suffix=suffix, data=data, notes=_dark_notes(values))

    def _converted(self, data: bytes) -> Stored:
        formats = _readable(data)
        image = open_image(
            data, max_pixels=self.max_pixels, formats=formats, advice=_MAX_PIXELS_FLAG
        )
        if self.resized and self.resized.applies(*image.size):
            return self._shrunk(image, self.resized)
        kind = image.format or "?"
        values = _pixels(image)
        if values.dtype == np.uint16:
            notes = _dark_notes(values) if self.gray_bits == 16 else ()
            return self._as_png(_eight_bits(values, self.gray_bits), f"16-bit {kind}", notes)
        return self._as_png(values, kind)

    def _shrunk(self, image: Image.Image, how: Resized) -> Stored:
        size = image.size
        draft(image, how)
        values = _pixels(image)
        if values.dtype == np.uint16:
            values = _eight_bits(values, self.gray_bits)
        note = f"resized to a shorter side of {how.shorter_side} px"
        return Stored(suffix="jpg", data=jpeg(values, size, how), notes=(note,))

    def _as_png(self, values: np.ndarray, kind: str, notes: Iterable[str] = ()) -> Stored:
        data = png(values)
        if len(data) > MAX_BYTES:
            raise BadImage(
                f"{len(data)} bytes as a PNG, the limit is {MAX_BYTES}: make it a JPEG, or smaller"
            )
        return Stored(suffix="png", data=data, notes=(f"{kind} stored as lossless PNG", *notes))


def _readable(data: bytes) -> tuple[str, ...]:
    """Pillow's formats to try. Raises BadImage for HEIC without its package."""
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIC_BRANDS or b"avif" in data[8:40]:
        return (*FORMATS, *CONVERTED)
    try:
        import pillow_heif  # type: ignore[import-not-found]  # the optional extra `heic`
    except ImportError:
        raise BadImage("HEIC, which needs a package: pip install pillow-heif") from None
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _pixels(image: Image.Image) -> np.ndarray:
    """uint16 [H, W] of 16-bit grey levels, else uint8 [H, W] or [H, W, 3]. Raises BadImage."""
    try:
        image.load()  # some of Pillow's readers turn the image upright by themselves
        orientation = image.getexif().get(ORIENTATION, 1)
        upright = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
        if upright.mode.startswith("I;16"):
            return np.asarray(upright).astype(np.uint16)
        plain = upright.convert("L") if upright.mode in ("1", "L") else as_rgb(upright)
        return np.ascontiguousarray(plain)
    except MemoryError:
        raise
    except Exception as error:
        raise BadImage(f"{image.format} does not decode: {describe_error(error)}") from None


def _eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper 8 of `bits` bits: uint16 [H, W] -> uint8 [H, W]. Raises BadImage."""
    if values.max() >> bits:
        raise BadImage(f"16-bit grey levels up to {values.max()}, more than --gray-bits {bits}")
    return (values >> (bits - 8)).astype(np.uint8)


def _dark_notes(values: np.ndarray) -> tuple[str, ...]:
    """A note if few grey levels are left of an image that does not use all 16 bits."""
    highest = int(values.max())
    bits = max(8, highest.bit_length())
    if bits > 14:
        return ()
    return (
        f"16-bit images that use {bits} bits keep {(highest >> 8) + 1} grey levels: "
        f"--gray-bits {bits} keeps 256",
    )
