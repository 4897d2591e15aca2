"""Parse the header of a tar's member, 512 bytes, without trusting it."""

import struct
from functools import lru_cache
from zlib import adler32

from storage.errors import BadSource

BLOCK = 512
MAX_MEMBER_BYTES = 64 << 20
REGULAR = (b"0", b"\0", b"7")
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# name, size, checksum, type flag, magic, what tells GNU's from POSIX's, the prefix's first byte
_FIELDS = struct.Struct("100s 24x 12s 12x 8s c 100x 5s c 82x c 166x")
_PREFIX = slice(345, 500)


def member_name(header: bytes) -> str | None:
    """The name in a tar header [512], or None if it is not a tar header."""
    if len(header) != BLOCK:
        return None
    name, _, _, _, magic, version, prefix = _FIELDS.unpack(header)
    return _name(header, name, version, prefix) if magic == b"ustar" else None


def parse_header(header: bytes, position: int) -> tuple[str, int, bytes]:
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
    name_field, size_field, checksum, kind, magic, version, prefix = _FIELDS.unpack(header)
    if magic != b"ustar" or not _checksum_holds(header, checksum):
        raise BadSource(f"no tar header at byte {position}: torn, or not a tar")
    name = _name(header, name_field, version, prefix)
    size = _number(size_field)
    if size is None:
        raise BadSource(f"member {name!r} at byte {position} has an unreadable size")
    return name, size, kind


def _name(header: bytes, name: bytes, version: bytes, prefix: bytes) -> str:
    """The name field, after the prefix field if there is one."""
    whole = name.partition(b"\0")[0]
    if prefix != b"\0" and version != b" ":  # GNU keeps other things there
        whole = header[_PREFIX].partition(b"\0")[0] + b"/" + whole
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


def refusal_of(kind: bytes, name: str, size: int) -> str | None:
    """Why a member is not read; None if it is an ordinary file."""
    if kind not in REGULAR:
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
