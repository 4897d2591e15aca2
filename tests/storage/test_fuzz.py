"""Damaged tars and images raise nothing but our own errors; a seed is a case."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fuzz import fuzz
from storage.errors import BadImage, StorageError
from storage.pack.labels import Labels, Unlabelled
from storage.pack.stored import Rule
from storage.tar import members
from tests.storage.support.images import encoded, gradient, with_exif

CASES = {"tars": 1500, "images": 400, "converted": 200}


@pytest.mark.parametrize(("kind", "cases"), CASES.items(), ids=list(CASES))
def test_nothing_but_our_errors_comes_out(kind: str, cases: int) -> None:
    run, escapes = fuzz(kind, 0, cases=cases)
    assert escapes == []
    assert run == cases


JPEG = encoded(gradient(16, 12), "JPEG")
short = st.integers(0, 2**16 - 1)


@given(
    tags=st.lists(st.tuples(short, st.integers(0, 14), st.integers(0, 2**32 - 1), st.binary(
        min_size=4, max_size=4)), max_size=6),
    orientation=st.integers(0, 9),
)  # fmt: skip
def test_any_exif_is_an_image_or_a_bad_image(tags: list, orientation: int) -> None:
    turned = (0x0112, 3, 1, bytes([orientation, 0, 0, 0]))
    try:
        assert Rule()(with_exif(JPEG, turned, *tags)).suffix == "jpg"
    except BadImage:
        return


@given(records=st.binary(max_size=80), kind=st.sampled_from([b"x", b"L", b"g", b"K"]))
def test_any_extended_header_is_read_or_refused(records: bytes, kind: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, len(records)
    block = info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)
    plain = tarfile.TarInfo("a.cls")
    plain.size = 1
    block += plain.tobuf(tarfile.USTAR_FORMAT) + b"1" + bytes(511) + bytes(1024)
    try:
        for member in members(io.BytesIO(block).read):
            assert len(member.data) <= 1024
    except StorageError:
        return


TEXTS = [b"1_0", b"x" * 99, b"\xd9\xa1", b"1e400", b"NaN", b'{"label": NaN}', b"[" * 9999,
         b'{"label": 1e999}', b'{"label": [1]}', b'{"label": "\\ud800"}', b"9" * 5000, b"-0",
         b"0x1", b"1.5"]  # fmt: skip


@given(
    suffix=st.sampled_from(["cls", "label", "json", "x.cls", "cls.txt"]),
    data=st.one_of(st.binary(max_size=40), st.sampled_from(TEXTS)),
    key=st.sampled_from([None, "cls", "label"]),
)
def test_any_label_is_a_number_or_a_reason(suffix: str, data: bytes, key: str | None) -> None:
    for classes in (None, ("a", "b")):
        try:
            number, _ = Labels(key=key, classes=classes).of({suffix: data})
            assert 0 <= number < 10**9
        except Unlabelled as error:
            assert str(error).isprintable()  # noqa: PT017  what hypothesis finds is either
