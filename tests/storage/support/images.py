"""Small images of every kind the decoder may meet."""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image


def gradient(width: int, height: int) -> np.ndarray:
    """Red grows to the right, green downwards: uint8 [height, width, 3]."""
    x = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    y = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return np.stack([x, y, np.full_like(x, 128)], axis=2).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def with_exif(jpeg: bytes, *tags: tuple[int, int, int, bytes]) -> bytes:
    """A JPEG with an EXIF block of (tag, type, count, 4 bytes of value or offset), as it is."""
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3].ljust(4, b"\0") for tag in tags)
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


ORIENTED = (0x0112, 3, 1, b"\x06\0\0\0")  # turned by a quarter
ODD_TAGS = {
    "XResolution as text": (0x011A, 2, 4, b"72\0\0"),
    "ResolutionUnit as text": (0x0128, 2, 2, b"in\0\0"),
    "a GPS block that is no offset": (0x8825, 2, 4, b"abc\0"),
    "a value beyond the block": (0x010F, 2, 4000, b"\xff\xff\0\0"),
    "an unknown type": (0x011A, 99, 1, b"\0\0\0\0"),
}
