"""Tars that nobody should trust: torn at every byte, disguised, hostile."""

import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import BadSource
from storage.index import name_hash
from storage.tar import Member, members


def tar(*entries: tuple[str, bytes] | tarfile.TarInfo, kind: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as out:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                out.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size = len(entry[1])
            out.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def read(data: bytes) -> list[Member]:
    return list(members(io.BytesIO(data).read))


ONE = tar(("a.jpg", b"x" * 700), ("a.cls", b"7"))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_and_their_places(kind: int) -> None:
    long = "deep/" * 30 + "name.jpg"
    data = tar((long, b"x" * 700), ("ümlaut.cls", b"7"), ("empty.txt", b""), kind=kind)
    found = read(data)
    assert [(m.name, len(m.data)) for m in found] == [
        (long, 700),
        ("ümlaut.cls", 1),
        ("empty.txt", 0),
    ]
    assert all(data[m.offset : m.offset + len(m.data)] == m.data for m in found)


def test_gnu_tars_may_cut_a_name_inside_a_letter() -> None:
    """The header in front of the data then holds half a letter."""
    name = "x" * 99 + "é.jpg"
    (found,) = read(tar((name, b"x" * 700), kind=tarfile.GNU_FORMAT))
    assert (found.name, found.refused) == (name, None)
    assert found.header_name == "x" * 99 + "\udcc3"
    assert name_hash(found.header_name) != name_hash("x" * 99)


@pytest.mark.parametrize(
    "record",
    [b"size=x", b"size=-5", b"size=", b"size=" + b"9" * 5000, b"size=1_0", b"path"],
)
def test_a_pax_header_that_cannot_be_read_is_named(record: bytes) -> None:
    with pytest.raises(BadSource, match="pax header at byte 0"):
        read(pax(b"%d %s\n" % (len(record) + 2 + len(str(len(record) + 3)), record)))
    with pytest.raises(BadSource, match="pax header at byte 0 cannot be read"):
        read(pax(b"9" * 5000 + b" path=x\n"))


def pax(records: bytes) -> bytes:
    """A tar whose first member has an extended header of these bytes."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    block = info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)
    return block + ONE


@given(
    entries=st.lists(
        st.tuples(st.text("abc/.", min_size=1, max_size=150), st.binary(max_size=1500))
    ),
    kind=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_what_tarfile_writes_is_read_or_refused_by_name(entries: list, kind: int) -> None:
    found = read(tar(*entries, kind=kind))
    assert len(found) == len(entries)
    for member, (name, data) in zip(found, entries, strict=True):
        assert member.refused is not None or member.data == data
        assert member.name.rstrip("/") == name.rstrip("/")


def test_the_sum_of_a_header_is_compared_exactly() -> None:
    """It is taken as two Adler-32 sums, each of which is modulo 65521."""
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    header[1:99] = b"\xff" * 98
    header[345:500] = b"\xff" * 155
    for wrong in (0, 65521, -65521, 1, -1, 256):
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % (sum(header) + wrong)
        if not wrong:
            (found,) = read(bytes(header) + bytes(1024))
            assert found.refused == "a name with control characters or not in UTF-8"
            continue
        with pytest.raises(BadSource, match="no tar header at byte 0"):
            read(bytes(header) + bytes(1024))


def test_a_cut_anywhere_is_torn() -> None:
    """Also at a member's edge and inside a header, where tarfile sees nothing wrong."""
    end = len(ONE.rstrip(b"\0"))
    mark = -(-end // 512) * 512
    for cut in [*range(0, mark, 37), 512, 1024, 1536, 2048, mark]:
        with pytest.raises(BadSource, match=r"torn|empty|no tar header"):
            read(ONE[:cut])
    assert len(read(ONE[: mark + 512])) == 2  # one block of the mark is enough


@given(place=st.integers(0, 511), bit=st.integers(0, 7))
@settings(max_examples=200)
def test_a_flipped_bit_in_a_header_is_noticed(place: int, bit: int) -> None:
    data = bytearray(ONE)
    data[place] ^= 1 << bit
    try:
        found = read(bytes(data))
    except BadSource:
        return
    assert [m.data for m in found] == [m.data for m in read(ONE)]


@given(st.binary(max_size=3000))
def test_random_bytes_are_no_tar(data: bytes) -> None:
    with pytest.raises(BadSource):
        read(data)


def special(name: str, kind: bytes, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (special("a.jpg", tarfile.SYMTYPE), "a symbolic link"),
        (special("a.jpg", tarfile.LNKTYPE), "a hard link"),
        (special("a.jpg", tarfile.CHRTYPE), "a character device"),
        (special("a.jpg", tarfile.FIFOTYPE), "a pipe"),
        (("../a.jpg", b"x"), "leads out"),
        (("/etc/a.jpg", b"x"), "leads out"),
        (("a/../../b.jpg", b"x"), "leads out"),
        (("a\nb.jpg", b"x"), "control characters"),
    ],
)
def test_hostile_members_are_refused_and_the_rest_is_read(
    entry: tuple[str, bytes] | tarfile.TarInfo, reason: str
) -> None:
    hostile, fine = read(tar(entry, ("fine.cls", b"1")))
    assert hostile.refused is not None
    assert reason in hostile.refused
    assert hostile.data == b""
    assert (fine.name, fine.data, fine.refused) == ("fine.cls", b"1", None)


def huge(data: bytes) -> bytes:
    """The same tar, whose first header claims 8 GiB."""
    block = bytearray(data[:512])
    block[124:136] = b"\x80" + (8 << 30).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[512:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b"", "empty"),
        (lambda: b"\x1f\x8b" + ONE, "compressed by gzip: unpack it"),
        (lambda: ONE + ONE, "these are concatenated tars"),
        (lambda: huge(ONE), "torn at byte .* inside 'a.jpg'"),
        (lambda: ONE[:512] + ONE[1024:], "torn|no tar header"),
    ],
)
def test_what_is_no_whole_tar_is_named(make: Callable[[], bytes], message: str) -> None:
    with pytest.raises(BadSource, match=message):
        read(make())


def test_a_member_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from storage import tar_header as reading

    monkeypatch.setattr(reading, "MAX_MEMBER_BYTES", 500)
    big, small = read(ONE)
    assert big.refused == "700 bytes, the limit is 500"
    assert small.data == b"7"
