"""Read size and mode of an ordinary JPEG from its first markers, fast enough to pack millions.

A result is always the same as Pillow's (test): anything unusual, such as EXIF, CMYK, a second
picture or an odd table, is left to Pillow.
"""

_START = b"\xff\xd8\xff"
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_SKIPPED = (0xC4, 0xDD, 0xFE)  # Huffman tables, restart interval, comment
_QUANTIZATION = 0xDB
_JFIF = 0xE0
_SCAN = 0xDA
_MODES = {1: "L", 3: "RGB"}


def plain_jpeg_size(data: bytes) -> tuple[int, int, str] | None:
    """(width, height, Pillow's mode), or None if the file is left to Pillow."""
    if data[:3] != _START:
        return None
    at, end = 2, len(data)
    found = None
    while at + 4 <= end:
        mark, kind, high, low = data[at : at + 4]
        length = high << 8 | low
        body, at = at + 4, at + 2 + length
        if mark != 0xFF or length < 2 or at > end:
            return None
        if kind == _SCAN:
            return found
        if kind in _FRAMES:
            found = _frame(data[body:at]) if found is None else None
            if found is None:
                return None
        elif kind == _JFIF:
            if length < 16 or data[body : body + 5] != b"JFIF\0":
                return None
        elif kind == _QUANTIZATION:  # tables of 64 bytes, each after its number
            if (length - 2) % 65 or max(data[body:at:65]) > 3:
                return None
        elif kind not in _SKIPPED:
            return None
    return None


def _frame(frame: bytes) -> tuple[int, int, str] | None:
    """Parse a start of frame: precision, height, width, components of three bytes each."""
    if len(frame) < 6 or frame[0] != 8 or len(frame) != 6 + 3 * frame[5]:
        return None
    height, width = frame[1] << 8 | frame[2], frame[3] << 8 | frame[4]
    mode = _MODES.get(frame[5])
    return (width, height, mode) if mode and width and height else None
