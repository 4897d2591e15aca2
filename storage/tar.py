"""Read a tar front to back without trusting it. Nothing is ever extracted to disk.

Python's tarfile accepts a file that was cut between two members or inside a header as complete, and
so do webdataset and Ray; here a tar without its end mark is an error. Links, devices and names that
lead out of the tar are returned as refused, with their name. Compressed tars are refused: ranged
reads cannot reach their members, and a small one may unpack to any size.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from storage.errors import BadSource
from storage.tar_header import BLOCK, REGULAR, parse_header, refusal_of

_MAX_META_BYTES = 1 << 20
_SKIPPED = (b"5", b"g", b"K")  # folders; global headers and long link names, which name no data
_EXTENDED = (b"x", b"L")  # name and size of the next member, of pax and of GNU
_META = frozenset((*_EXTENDED, *_SKIPPED))
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


def members(read: Read) -> Iterator[Member]:
    """Yield the files in order; `read(n)` returns the next n bytes, fewer only at the end.

    Raises BadSource, which names the byte at which the tar is incomplete or not a tar.
    """
    position = 0
    long_name: str | None = None
    long_size: int | None = None
    header = read(BLOCK)
    while header != _END:
        name, size, kind = parse_header(header, position)
        size = size if long_size is None else long_size
        offset = position + BLOCK
        padding = -size % BLOCK
        if kind not in _META:
            whole = long_name or name
            refused = refusal_of(kind, whole, size)
            if refused is None:
                data = read(size)
                rest = read(padding + BLOCK)  # with the next header: a third call costs as much
                if len(rest) < padding or len(data) < size:
                    raise _torn(offset + len(data) + len(rest), whole)
                header = rest[padding:]
            else:
                # links and devices have no data, whatever their size field says
                _skip(read, size + padding if kind in REGULAR else 0, whole, offset)
                size, padding, data = (size, padding, b"") if kind in REGULAR else (0, 0, b"")
                header = read(BLOCK)
            yield Member(whole, name, offset, data, refused)
            long_name, long_size = None, None
        else:
            if kind in _EXTENDED:
                data = _read_meta(read, size, padding, name, offset)
                long_name, long_size = _extended(kind, data, long_name, long_size, position)
            else:
                _skip(read, size + padding, name, offset)
            header = read(BLOCK)
        position = offset + size + padding
    _require_end(read, position + BLOCK)


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
        name, size, kind = parse_header(header, position)
        if kind in (b"x", b"L", b"g"):
            raise BadSource(f"extended header at byte {position}: not one of the official tars")
        if kind not in _SKIPPED:
            refused = refusal_of(kind, name, 0)
            yield Entry(name, position + BLOCK, size, refused)
        has_data = kind in REGULAR or kind in _SKIPPED
        position += BLOCK + (size + -size % BLOCK if has_data else 0)


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


def _read_meta(read: Read, size: int, padding: int, name: str, offset: int) -> bytes:
    if size > _MAX_META_BYTES:
        raise BadSource(f"header {name!r} at byte {offset} wants {size} bytes: not a sane tar")
    data = read(size + padding)
    if len(data) < size + padding:
        raise _torn(offset + len(data), name)
    return data[:size]


def _torn(position: int, name: str) -> BadSource:
    return BadSource(f"torn at byte {position}, inside {name!r}")


def _skip(read: Read, count: int, name: str, offset: int) -> None:
    done = 0
    while done < count:
        data = read(min(count - done, 1 << 20))
        if not data:
            raise _torn(offset + done, name)
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
