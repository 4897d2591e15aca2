"""Read the markers of a JPEG: size and mode, fast enough to pack millions; is the scan whole?

A size is always the same as Pillow's (test): anything unusual, such as EXIF, CMYK, a second
picture or an odd table, is left to Pillow.
"""

import re
import struct
from collections.abc import Iterator
from functools import lru_cache

_START = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"
_SEGMENT = struct.Struct(">HH")  # marker, length including these two bytes
_FRAMES = (0xFFC0, 0xFFC1, 0xFFC2)  # baseline, extended, progressive
_BASELINE = _FRAMES[:2]
_SKIPPED = (0xFFC4, 0xFFDD, 0xFFFE)  # Huffman tables, restart interval, comment
_QUANTIZATION = 0xFFDB
_JFIF = 0xFFE0
_MODES = {1: "L", 3: "RGB"}
_MAX_HEAD_BYTES = 4096
_START_OF_SCAN, _END = 0xFFDA, b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # in a scan: anything but a restart


def plain_jpeg_size(data: bytes) -> tuple[int, int, str] | None:
    """(width, height, Pillow's mode), or None if the file is left to Pillow."""
    scan = data.find(_SCAN, 0, _MAX_HEAD_BYTES)
    if scan < 0 or not data.startswith(_START) or len(data) < scan + _SEGMENT.size:
        return None
    _, length = _SEGMENT.unpack_from(data, scan)
    if length < 2 or scan + 2 + length > len(data):
        return None
    return _size(data[:scan])


def scan_is_whole(data: bytes) -> bool:
    """Whether a baseline JPEG consists of one scan with nothing but image data up to its end."""
    baseline = False
    for kind, _, stop in _segments(data):
        baseline = baseline or kind in _BASELINE
        if kind == _START_OF_SCAN:
            marker = _MARKER.search(data, stop)
            return baseline and marker is not None and marker.group() == _END
    return False


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each segment: its marker, and where its content starts and ends.

    It stops at the first bytes that are no segment.
    """
    at = 2
    while at + _SEGMENT.size <= len(data):
        kind, length = _SEGMENT.unpack_from(data, at)
        body, at = at + _SEGMENT.size, at + 2 + length
        if kind < 0xFF00 or at < body or at > len(data):
            return
        yield kind, body, at


@lru_cache(maxsize=256)  # images of one size and one encoder begin with the same bytes
def _size(head: bytes) -> tuple[int, int, str] | None:
    """Parse what comes before the scan."""
    found, end = None, 2
    for kind, body, end in _segments(head):
        if kind in _SKIPPED:
            continue
        if kind == _QUANTIZATION:  # tables of 64 bytes, each after its number
            if (end - body) % 65 or max(head[body:end:65]) > 3:
                return None
        elif kind in _FRAMES:
            found = _frame(head[body:end]) if found is None else None
            if found is None:
                return None
        elif kind != _JFIF or end - body < 14 or not head.startswith(b"JFIF\0", body):
            return None
    return found if end == len(head) else None


def _frame(frame: bytes) -> tuple[int, int, str] | None:
    """Parse a start of frame: precision, height, width, components of three bytes each."""
    if len(frame) < 6 or frame[0] != 8 or len(frame) != 6 + 3 * frame[5]:
        return None
    height, width = frame[1] << 8 | frame[2], frame[3] << 8 | frame[4]
    mode = _MODES.get(frame[5])
    return (width, height, mode) if mode and width and height else None
