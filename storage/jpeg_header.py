"""Read size and mode of an ordinary JPEG from its first markers, fast enough to pack millions.

A result is always the same as Pillow's (test): anything unusual, such as EXIF, CMYK, a second
picture or an odd table, is left to Pillow.
"""

import struct
from functools import lru_cache

_START = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"
_SEGMENT = struct.Struct(">HH")  # marker, length including these two bytes
_FRAMES = (0xFFC0, 0xFFC1, 0xFFC2)  # baseline, extended, progressive
_SKIPPED = (0xFFC4, 0xFFDD, 0xFFFE)  # Huffman tables, restart interval, comment
_QUANTIZATION = 0xFFDB
_JFIF = 0xFFE0
_MODES = {1: "L", 3: "RGB"}
_MAX_HEAD_BYTES = 4096


def plain_jpeg_size(data: bytes) -> tuple[int, int, str] | None:
    """(width, height, Pillow's mode), or None if the file is left to Pillow."""
    scan = data.find(_SCAN, 0, _MAX_HEAD_BYTES)
    if scan < 0 or not data.startswith(_START) or len(data) < scan + _SEGMENT.size:
        return None
    _, length = _SEGMENT.unpack_from(data, scan)
    if length < 2 or scan + 2 + length > len(data):
        return None
    return _size(data[:scan])


@lru_cache(maxsize=256)  # images of one size and one encoder begin with the same bytes
def _size(head: bytes) -> tuple[int, int, str] | None:
    """Parse what comes before the scan."""
    at, end = 2, len(head)
    found = None
    while at + _SEGMENT.size <= end:
        kind, length = _SEGMENT.unpack_from(head, at)
        body, at = at + 4, at + 2 + length
        if length < 2 or at > end:
            return None
        if kind in _SKIPPED:
            continue
        if kind == _QUANTIZATION:  # tables of 64 bytes, each after its number
            if (length - 2) % 65 or max(head[body:at:65]) > 3:
                return None
        elif kind in _FRAMES:
            found = _frame(head[body:at]) if found is None else None
            if found is None:
                return None
        elif kind != _JFIF or length < 16 or not head.startswith(b"JFIF\0", body):
            return None
    return found if at == end else None


def _frame(frame: bytes) -> tuple[int, int, str] | None:
    """Parse a start of frame: precision, height, width, components of three bytes each."""
    if len(frame) < 6 or frame[0] != 8 or len(frame) != 6 + 3 * frame[5]:
        return None
    height, width = frame[1] << 8 | frame[2], frame[3] << 8 | frame[4]
    mode = _MODES.get(frame[5])
    return (width, height, mode) if mode and width and height else None
