"""Decoding a part of a JPEG gives what decoding all of it gives: pixels, and which are refused."""

import io
import random
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, files

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from storage import jpeg_part
from storage.decode import Crop, decode
from storage.errors import BadImage
from storage.jpeg_header import scan_is_whole
from storage.jpeg_part import decode_part, turbojpeg
from tests.storage.support.images import ORIENTED, encoded, gradient, with_exif

EIGHTHS = (1, 2, 3, 4, 8)


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> object:
    """The library of this machine, or the one that the development dependencies bring."""
    try:
        shipped = [str(f.locate()) for f in files("turbojpeg") or () if "libturbojpeg" in f.name]
    except PackageNotFoundError:
        shipped = []
    if shipped:
        monkeypatch.setenv("LIBTURBOJPEG", shipped[0])
    turbojpeg.cache_clear()
    found = turbojpeg()
    if found is None and not shipped:
        pytest.skip("libturbojpeg 3 is not on this machine")
    assert found is not None
    yield found
    turbojpeg.cache_clear()


def photograph(draw: random.Random, *, most: int = 300, **options: object) -> bytes:
    """Noise on a gradient, of any size."""
    width, height = draw.randint(9, most), draw.randint(9, most)
    noise = np.random.default_rng(draw.randrange(2**32)).integers(0, 60, (height, width, 3))
    pixels = (gradient(width, height) // 2 + noise).astype(np.uint8)
    return encoded(pixels, "JPEG", quality=draw.choice((60, 85, 95)), **options)


def test_a_part_has_the_pixels_of_the_whole() -> None:
    """Every chroma subsampling, grey images, every scale, parts at all edges, restart markers."""
    draw = random.Random(0)
    kinds = ("444", "422", "420", "440", "411", "Gray")
    for number in range(300):
        width, height = draw.randint(9, 200), draw.randint(9, 200)
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        data = simplejpeg.encode_jpeg(noise, quality=90, colorsubsampling=kinds[number % 6])
        if number % 4 == 0:
            data = encoded(noise, "JPEG", restart_marker_rows=1)
        eighths = EIGHTHS[number // 6 % 5]
        whole_height, whole_width = (-(-side * eighths // 8) for side in (height, width))
        whole = simplejpeg.decode_jpeg(
            data, min_height=whole_height, min_width=whole_width, min_factor=2
        )
        assert whole.shape[:2] == (whole_height, whole_width)
        left, upper = draw.randrange(whole_width), draw.randrange(whole_height)
        right, lower = draw.randint(left + 1, whole_width), draw.randint(upper + 1, whole_height)
        part = decode_part(data, (left, upper, right, lower), eighths)
        assert part is not None, (number, kinds[number % 6])
        np.testing.assert_array_equal(part, whole[upper:lower, left:right])


def outcome(data: bytes, crop: Crop, index: int) -> np.ndarray | str:
    try:
        return decode(data, crop, seed=0, epoch=0, index=index)
    except BadImage as error:
        return str(error)


def test_damaged_files_give_the_same_image_or_are_refused_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nodes with and without the library must replace the same samples."""
    draw = random.Random(1)
    crop = Crop(image_size=12)  # so that many are decoded at a scale
    refused = parts = 0
    for number in range(1500):
        data = bytearray(photograph(draw, most=120, restart_marker_rows=number % 2))
        reach = len(data) // draw.choice((1, 1, 6, 12))  # the whole file, or the image's last rows
        for _ in range(draw.randint(1, 3)):
            data[-draw.randint(3, reach)] = draw.choice((0, 0xFF, 0xD9, draw.randrange(256)))
        if number % 5 == 0:
            del data[-draw.randrange(3, reach) :]
        taken: list[np.ndarray | str] = []
        for known in (turbojpeg(), None):
            with monkeypatch.context() as place:
                place.setattr(jpeg_part, "turbojpeg", lambda known=known: known)
                taken.append(outcome(bytes(data), crop, number))
        refused += isinstance(taken[0], str)
        parts += scan_is_whole(bytes(data))
        np.testing.assert_array_equal(taken[0], taken[1])
    assert refused > 100
    assert parts > 100


def progressive() -> bytes:
    return photograph(random.Random(2), progressive=True)


def cut_off() -> bytes:
    return photograph(random.Random(2))[:-40]


def marker_within() -> bytes:
    data = photograph(random.Random(2))
    middle = len(data) // 2
    return data[:middle] + b"\xff\xc4" + data[middle:]


def with_thumbnail() -> bytes:
    """The picture in the header is whole, the scan is not."""
    thumbnail = b"\xff\xda\0\2" + b"\xff\xd9"
    return with_exif(cut_off(), (0x010F, 2, 4, thumbnail[:4]))


@pytest.mark.parametrize("make", [progressive, cut_off, marker_within, with_thumbnail, bytes])
def test_the_unusual_is_decoded_whole(make: Callable[[], bytes]) -> None:
    data = make()
    assert not scan_is_whole(data)
    assert decode_part(data, (0, 0, 5, 5), 8) is None


def test_what_follows_the_image_does_no_harm() -> None:
    data = photograph(random.Random(2))
    part = decode_part(data + b"\0" * 100 + b"\xff\xd8\xff", (0, 0, 5, 5), 8)
    np.testing.assert_array_equal(part, decode_part(data, (0, 0, 5, 5), 8))


def test_a_part_beyond_the_image_is_none() -> None:
    data = encoded(gradient(40, 30), "JPEG")
    for part in ((0, 0, 41, 30), (0, 0, 40, 31), (5, 5, 5, 9), (-1, 0, 4, 4)):
        assert decode_part(data, part, 8) is None


def test_a_turned_or_cmyk_photograph_is_decoded_as_before() -> None:
    crop = Crop(image_size=32)
    turned = with_exif(photograph(random.Random(3)), ORIENTED)
    buffer = io.BytesIO()
    Image.fromarray(gradient(60, 50)).convert("CMYK").save(buffer, "JPEG")
    for data in (turned, buffer.getvalue()):
        assert decode(data, crop, seed=0, epoch=0, index=0).shape == (32, 32, 3)


@pytest.mark.parametrize("path", ["", "/nowhere/libturbojpeg.so.0", "libc.so.6"])
def test_without_the_library_images_are_decoded_whole(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LIBTURBOJPEG turns it off if empty; a file that is no libturbojpeg 3 is left alone."""
    monkeypatch.setenv("LIBTURBOJPEG", path)
    turbojpeg.cache_clear()
    assert turbojpeg() is None
    assert decode_part(photograph(random.Random(4)), (0, 0, 5, 5), 8) is None


def test_a_library_with_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that rounds colours differently would make the batches depend on the node."""
    own = jpeg_part._TurboJpeg.decode

    def other(self: object, data: bytes, part: jpeg_part.Part, eighths: int) -> object:
        pixels = own(self, data, part, eighths)  # pyright: ignore[reportArgumentType]
        return pixels if pixels is None else pixels ^ 1

    monkeypatch.setattr(jpeg_part._TurboJpeg, "decode", other)
    turbojpeg.cache_clear()
    assert turbojpeg() is None
