"""Decode only the part of a JPEG that a crop needs, with libjpeg-turbo 3 if the node has it.

simplejpeg contains libjpeg-turbo, but offers no part of an image. `libturbojpeg`, the library's own
interface, decodes the rows down to the part's last one, and transforms nothing outside the part:
about 20 % less time for a training crop. The pixels are the same as those of the whole image
(test), so it does not matter which nodes have the library. `docs/stream.md` says where to get it.
The environment variable LIBTURBOJPEG names its file; if it is empty, the library is not used.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from functools import lru_cache
from typing import Any

import numpy as np
import simplejpeg

from storage.jpeg_header import scan_is_whole

Part = tuple[int, int, int, int]  # left, upper, right, lower, in pixels of the scaled image

_DECOMPRESS = 1  # constants of turbojpeg.h
_SUBSAMPLING, _WIDTH, _HEIGHT = 4, 5, 6
_RGB = 0
_BLOCK_WIDTH = {0: 8, 1: 16, 2: 16, 3: 8, 4: 8, 5: 32, 6: 8}  # of one MCU, by chroma subsampling


class _Region(ctypes.Structure):
    _fields_ = [("x", c_int), ("y", c_int), ("w", c_int), ("h", c_int)]


class _Factor(ctypes.Structure):
    _fields_ = [("num", c_int), ("denom", c_int)]


def decode_part(data: bytes, part: Part, eighths: int) -> np.ndarray | None:
    """Decode a part of an image scaled to eighths / 8 of its size: uint8 [h, w, 3], RGB.

    None if it must be decoded whole: the library is missing, or the JPEG is progressive, damaged or
    otherwise unusual. Damage below the part goes unseen; `scan_is_whole` makes sure that decoding
    the whole image would not refuse it either.
    """
    library = turbojpeg()
    if library is None or not scan_is_whole(data):
        return None
    return library.decode(data, part, eighths)


class _TurboJpeg:
    """The functions of libturbojpeg that decode a part. Raises OSError, AttributeError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._library = ctypes.CDLL(path)
        self._handles = threading.local()  # a decoder may not be shared by threads
        head = (c_void_p, c_char_p, c_size_t)
        self._init = self._function("tj3Init", c_void_p, c_int)
        self._get = self._function("tj3Get", c_int, c_void_p, c_int)
        self._header = self._function("tj3DecompressHeader", c_int, *head)
        self._scale = self._function("tj3SetScalingFactor", c_int, c_void_p, _Factor)
        self._crop = self._function("tj3SetCroppingRegion", c_int, c_void_p, _Region)
        self._decode = self._function("tj3Decompress8", c_int, *head, c_void_p, c_int, c_int)

    def _function(self, name: str, result: type, *arguments: type) -> Callable[..., Any]:
        function = getattr(self._library, name)
        function.restype, function.argtypes = result, list(arguments)
        return function

    def decode(self, data: bytes, part: Part, eighths: int) -> np.ndarray | None:
        """As `decode_part`; None for whatever the library warns of."""
        handle = getattr(self._handles, "decoder", None)
        if handle is None:
            handle = self._handles.decoder = self._init(_DECOMPRESS)
        self._crop(handle, _Region(0, 0, 0, 0))  # forget the last image's
        if self._header(handle, data, len(data)) != 0:
            return None
        block = _BLOCK_WIDTH.get(self._get(handle, _SUBSAMPLING))
        if block is None:
            return None
        width, height = (-(-self._get(handle, side) * eighths // 8) for side in (_WIDTH, _HEIGHT))
        left, upper, right, lower = part
        if not (0 <= left < right <= width and 0 <= upper < lower <= height):
            return None
        step = block * eighths // 8
        # Colour is interpolated from neighbours: a block more on both sides makes the edges equal.
        start, stop = max(0, left // step - 1) * step, min(width, right + step)
        region = _Region(start, upper, stop - start, lower - upper)
        factor = next(_Factor(eighths // n, 8 // n) for n in (8, 4, 2, 1) if eighths % n == 0)
        if self._scale(handle, factor) != 0 or self._crop(handle, region) != 0:
            return None
        pixels = np.empty((lower - upper, stop - start, 3), dtype=np.uint8)
        if self._decode(handle, data, len(data), pixels.ctypes.data, 0, _RGB) != 0:
            return None
        return pixels[:, left - start : right - start]


@lru_cache(maxsize=1)
def turbojpeg() -> _TurboJpeg | None:
    """The library of this node, if there is one that gives simplejpeg's pixels."""
    for path in _paths():
        try:
            library = _TurboJpeg(path)
        except (OSError, AttributeError):  # missing, or older than version 3
            continue
        if _agrees(library):
            return library
    return None


def _paths() -> Iterator[str]:
    named = os.environ.get("LIBTURBOJPEG")
    if named is not None:
        yield from (named,) if named else ()
        return
    name = "libturbojpeg.0.dylib" if sys.platform == "darwin" else "libturbojpeg.so.0"
    yield from (f"{sys.prefix}/lib/{name}", name, f"/opt/libjpeg-turbo/lib64/{name}")


def _agrees(library: _TurboJpeg) -> bool:
    """Compare with simplejpeg on a small image of noise, at each scale."""
    noise = np.random.default_rng(0).integers(0, 256, (53, 75, 3), dtype=np.uint8)
    data = simplejpeg.encode_jpeg(noise, quality=80, colorsubsampling="420")
    for eighths in (1, 2, 3, 4, 8):
        height, width = (-(-side * eighths // 8) for side in noise.shape[:2])
        whole = simplejpeg.decode_jpeg(data, min_height=height, min_width=width, min_factor=2)
        part = width // 3, height // 3, width - 1, height - 1
        found = library.decode(data, part, eighths)
        if found is None or not np.array_equal(found, whole[part[1] : part[3], part[0] : part[2]]):
            return False
    return True
