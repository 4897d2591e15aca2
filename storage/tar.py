"""Read a tar front to back without trusting it. Nothing is ever extracted to disk.

Python's tarfile accepts a file that was cut between two members or inside a header as complete, and
so do webdataset and Ray; here a tar without its end mark is an error. Links, devices and names that
lead out of the tar are returned as refused, with their name. Compressed tars are refused: ranged
reads cannot reach their members, and a small one may unpack to any size.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from zlib import adler32

from storage.errors import BadSource

BLOCK = 512
MAX_MEMBER_BYTES = 64 << 20
_MAX_META_BYTES = 1 << 20
_REGULAR = (b"0", b"\0", b"7")
_SKIPPED = (b"5", b"g", b"K")  # folders; global headers and long link names, which name no data
_EXTENDED = (b"x", b"L")  # name and size of the next member, of pax and of GNU
_META = (*_EXTENDED, *_SKIPPED)
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# name, size, checksum, type flag, magic with version, prefix
_FIELDS = struct.Struct("100s 24x 12s 12x 8s c 100x 6s 82x 155s 12x")
_END = bytes(BLOCK)
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
_PAX_SIZE = re.compile(rb"\d{1,18}")
Read = Callable[[int], bytes]


class Member(NamedTuple):
    """One file of a tar, or the reason why it is refused."""

    name: str
    """Full name, even if it is longer than a header can hold."""
    header_name: str
    """Name in the 512 bytes right before the data, which `reader.py` compares."""
    offset: int
    """Offset of the data's first byte in the tar."""
    data: bytes
    refused: str | None = None


def member_name(header: bytes) -> str | None:
    """The name in a tar header [512], or None if it is not a tar header."""
    if len(header) != BLOCK:
        return None
    name, _, _, _, magic, prefix = _FIELDS.unpack(header)
    return _name(name, magic, prefix)


def members(read: Read) -> Iterator[Member]:
    """Yield the files in order; `read(n)` returns the next n bytes, fewer only at the end.

    Raises BadSource, which names the byte at which the tar is incomplete or not a tar.
    """
    position = 0
    long_name: str | None = None
    long_size: int | None = None
    while True:
        header = read(BLOCK)
        if header == _END:
            _require_end(read, position + BLOCK)
            return
        name, size, kind = _parse_header(header, position)
        size = size if long_size is None else long_size
        offset = position + BLOCK
        padding = -size % BLOCK
        if kind not in _META:
            whole = long_name or name
            refused = _refusal(kind, whole, size)
            if refused is None:
                data = read(size + padding)
                if len(data) < size + padding:
                    raise BadSource(f"torn at byte {offset + len(data)}, inside {whole!r}")
                data = data[:size]
            else:
                # links and devices have no data, whatever their size field says
                _skip(read, size + padding if kind in _REGULAR else 0, whole, offset)
                size, padding, data = (size, padding, b"") if kind in _REGULAR else (0, 0, b"")
            yield Member(whole, name, offset, data, refused)
            long_name, long_size = None, None
        elif kind in _EXTENDED:
            data = _read_meta(read, size, padding, name, offset)
            long_name, long_size = _extended(kind, data, long_name, long_size, position)
        else:
            _skip(read, size + padding, name, offset)
        position = offset + size + padding


@dataclass(frozen=True)
class Entry:
    """Place of one file in a tar; its data was not read."""

    name: str
    offset: int
    size: int
    refused: str | None


def entries(read_at: Callable[[int], bytes], start: int = 0) -> Iterator[Entry]:
    """Yield the files in order, reading only headers; `read_at(offset)` returns up to 512 bytes.

    It is meant for tars with short names, such as ImageNet's official ones, on storage with cheap
    seeks. `start` is the offset of a tar inside a tar. Raises BadSource as `members` does.
    """
    position = start
    while True:
        header = read_at(position)
        if header == _END:
            return
        name, size, kind = _parse_header(header, position)
        if kind in (b"x", b"L", b"g"):
            raise BadSource(f"extended header at byte {position}: not one of the official tars")
        if kind not in _SKIPPED:
            refused = _refusal(kind, name, 0)
            yield Entry(name, position + BLOCK, size, refused)
        has_data = kind in _REGULAR or kind in _SKIPPED
        position += BLOCK + (size + -size % BLOCK if has_data else 0)


def _parse_header(header: bytes, position: int) -> tuple[str, int, bytes]:
    """Parse name, size and type flag."""
    if len(header) < BLOCK:
        raise BadSource(
            f"torn at byte {position + len(header)}: it ends without an end mark"
            if header or position
            else "empty"
        )
    if position == 0:
        for magic, packer in _MAGIC.items():
            if header.startswith(magic):
                raise BadSource(f"compressed by {packer}: unpack it, images do not get smaller")
    name_field, size_field, checksum, kind, magic, prefix = _FIELDS.unpack(header)
    name = _name(name_field, magic, prefix)
    if name is None or not _checksum_holds(header, checksum):
        raise BadSource(f"no tar header at byte {position}: torn, or not a tar")
    size = _number(size_field)
    if size is None:
        raise BadSource(f"member {name!r} at byte {position} has an unreadable size")
    return name, size, kind


def _name(name: bytes, magic: bytes, prefix: bytes) -> str | None:
    if magic[:5] != b"ustar":
        return None
    whole = name.partition(b"\0")[0]
    if prefix[0] and magic != b"ustar ":  # GNU keeps other things there
        whole = prefix.partition(b"\0")[0] + b"/" + whole
    return whole.decode("utf-8", "surrogateescape")


def _checksum_holds(header: bytes, field: bytes) -> bool:
    """Whether the sum of the header's bytes is in its field, which counts as blanks itself.

    Adler-32's lower half is 1 + the sum of the bytes, 20 times as fast as `sum`. It is modulo
    65521, which neither 512 bytes of ASCII nor 256 of any kind can reach.
    """
    if header.isascii():
        return (adler32(header) & 0xFFFF) - 1 == _whole_sum(field)
    halves = (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF)
    return halves - 2 == _whole_sum(field)


@lru_cache(maxsize=1 << 14)
def _whole_sum(field: bytes) -> int | None:
    """Sum of all bytes of a header that has this checksum; None if it is not a number."""
    wanted = _number(field)
    return None if wanted is None else wanted - len(field) * ord(" ") + sum(field)


@lru_cache(maxsize=1 << 14)  # sizes and checksums repeat: most members are of a few kinds
def _number(field: bytes) -> int | None:
    """Parse octal text, or a big-endian number after a set top bit (GNU, for 8 GiB and more)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if not text:
        return 0
    try:
        return int(text, 8) if text.isdigit() else None
    except ValueError:  # an 8 or a 9
        return None


def _extended(
    kind: bytes, data: bytes, long_name: str | None, long_size: int | None, position: int
) -> tuple[str | None, int | None]:
    """Name and size that a pax (x) or GNU (L) header gives to the next member."""
    if kind == b"L":
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape"), long_size
    start = 0
    while start < len(data):
        record = _PAX_RECORD.match(data, start)
        end = start + int(record.group(1)) if record else 0
        if record is None or not record.end() < end <= len(data):
            raise BadSource(f"pax header at byte {position} cannot be read")
        value = data[record.end() : end - 1]
        if record.group(2) == b"path":
            long_name = value.decode("utf-8", "surrogateescape")
        if record.group(2) == b"size":
            if not _PAX_SIZE.fullmatch(value):
                raise BadSource(f"pax header at byte {position} has the size {value[:20]!r}")
            long_size = int(value)
        start = end
    return long_name, long_size


def _refusal(kind: bytes, name: str, size: int) -> str | None:
    if kind not in _REGULAR:
        return _KINDS.get(kind, f"a member of unknown type {kind!r}")
    if name.startswith("/") or (".." in name and ".." in name.split("/")):
        return "a name that leads out of the tar"
    if not name.isprintable() and any(
        letter < " " or "\ud800" <= letter <= "\udfff" for letter in name
    ):
        return "a name with control characters or not in UTF-8"
    if size > MAX_MEMBER_BYTES:
        return f"{size} bytes, the limit is {MAX_MEMBER_BYTES}"
    return None


def _read_meta(read: Read, size: int, padding: int, name: str, offset: int) -> bytes:
    if size > _MAX_META_BYTES:
        raise BadSource(f"header {name!r} at byte {offset} wants {size} bytes: not a sane tar")
    data = read(size + padding)
    if len(data) < size + padding:
        raise BadSource(f"torn at byte {offset + len(data)}, inside {name!r}")
    return data[:size]


def _skip(read: Read, count: int, name: str, offset: int) -> None:
    done = 0
    while done < count:
        data = read(min(count - done, 1 << 20))
        if not data:
            raise BadSource(f"torn at byte {offset + done}, inside {name!r}")
        done += len(data)


def _require_end(read: Read, position: int) -> None:
    """Check that only zeros follow the end mark: a second tar there would never be read."""
    while data := read(1 << 20):
        if data.strip(b"\0"):
            raise BadSource(
                f"data after the end mark at byte {position}: these are concatenated tars, split "
                "them"
            )
        position += len(data)
