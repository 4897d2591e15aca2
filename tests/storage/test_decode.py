import io
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from storage import decode as decoding
from storage.decode import Crop, crop_box, decode, probe
from storage.errors import BadImage
from storage.jpeg_header import plain_jpeg_size
from storage.pixels import Interpolation
from tests.storage.support.images import ODD_TAGS, ORIENTED, encoded, gradient, with_exif

WHOLE = Crop(image_size=32, kind="resize")


def whole(data: bytes, size: int = 32) -> np.ndarray:
    return decode(data, Crop(image_size=size, kind="resize"), seed=0, epoch=0, index=0)


@pytest.mark.parametrize(
    ("kind", "options", "error"),
    [
        ("PNG", {}, 0.0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 1.5),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 1.5),
        ("WEBP", {"lossless": True}, 0.0),
    ],
)
def test_rgb_formats_give_their_pixels(kind: str, options: dict, error: float) -> None:
    pixels = gradient(32, 32)
    found = whole(encoded(pixels, kind, **options))
    assert found.dtype == np.uint8
    assert found.shape == (32, 32, 3)
    assert np.abs(found.astype(int) - pixels).mean() <= error


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_png_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(gradient(32, 32)).convert(mode)
    wanted = np.asarray(image.convert("RGB"))
    assert np.array_equal(whole(encoded(image, "PNG")), wanted)


def test_palette_with_transparency_does_not_warn() -> None:
    image = Image.fromarray(gradient(32, 32)).convert("P")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole(encoded(image, "PNG", transparency=bytes(range(256))))


def test_sixteen_bit_gray_keeps_its_upper_byte() -> None:
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    found = whole(encoded(Image.fromarray(values), "PNG"))
    assert np.array_equal(found, np.repeat((values >> 8)[:, :, None], 3, axis=2))


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = Image.fromarray(gradient(32, 32)).convert("CMYK")
    found = whole(encoded(image, "JPEG", quality=95))
    assert np.abs(found.astype(int) - gradient(32, 32)).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    """Turned as every viewer turns it, also where the decoder scales (320 -> 16 pixels)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(gradient(320, 160), kind, exif=exif)
    image = Image.open(io.BytesIO(data))
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image).convert("RGB")
    wanted = np.asarray(upright.resize((16, 16), Image.Resampling.BICUBIC))
    assert np.abs(whole(data, 16).astype(int) - wanted).mean() < 2.0
    crop = Crop(image_size=16, kind="center", resize_fraction=0.5)
    centre = decode(data, crop, seed=0, epoch=0, index=0)
    left, upper = upright.width / 2 - 40, upright.height / 2 - 40
    box = (left, upper, left + 80, upper + 80)
    wanted = np.asarray(upright.resize((16, 16), Image.Resampling.BICUBIC, box=box))
    assert np.abs(centre.astype(int) - wanted).mean() < 2.0


def test_the_filter_is_the_one_that_was_asked_for() -> None:
    """In both paths: torch's for a box of whole pixels, Pillow's for others."""
    data = encoded(np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8), "PNG")
    image = Image.open(io.BytesIO(data))
    found = {}
    filters: dict[Interpolation, Image.Resampling] = {
        "bicubic": Image.Resampling.BICUBIC,
        "bilinear": Image.Resampling.BILINEAR,
    }
    for interpolation, pillow in filters.items():
        crop = Crop(image_size=16, kind="resize", interpolation=interpolation)
        wanted = np.asarray(image.resize((16, 16), pillow)).astype(int)
        found[interpolation] = decode(data, crop, seed=0, epoch=0, index=0)
        assert np.abs(found[interpolation] - wanted).max() <= 2
        centre = replace(crop, kind="center", resize_fraction=0.77)
        left, upper, side = 20 - 0.77 * 20, 30 - 0.77 * 20, 0.77 * 40
        box = (left, upper, left + side, upper + side)
        wanted = np.asarray(image.resize((16, 16), pillow, box=box))
        assert np.array_equal(decode(data, centre, seed=0, epoch=0, index=0), wanted)
    assert np.abs(found["bicubic"].astype(int) - found["bilinear"]).mean() > 2


@pytest.mark.parametrize("tag", ODD_TAGS.values(), ids=list(ODD_TAGS))
@pytest.mark.parametrize("orientation", [1, 6])
def test_odd_exif_beside_an_orientation_does_no_harm(tag: tuple, orientation: int) -> None:
    """exif_transpose writes such blocks anew: TypeError, struct.error."""
    plain = encoded(gradient(40, 20), "JPEG", quality=95)
    turned = (*ORIENTED[:3], bytes([orientation]))
    found = whole(with_exif(plain, turned, tag), 20)
    upright = Image.open(io.BytesIO(plain)).rotate(-90 if orientation == 6 else 0, expand=True)
    wanted = np.asarray(upright.resize((20, 20), Image.Resampling.BICUBIC))
    assert np.abs(found.astype(int) - wanted).mean() < 2.0


QUIET = """
import sys
from storage.decode import Crop, decode, probe
data = sys.stdin.buffer.read()
probe(data)
decode(data, Crop(image_size=16), seed=0, epoch=0, index=0)
"""


def test_odd_exif_prints_nothing() -> None:
    """Pillow warns of it on the terminal of whoever packs."""
    data = with_exif(encoded(gradient(40, 20), "JPEG"), ORIENTED, ODD_TAGS["an unknown type"])
    data = data.replace(
        b"II*\0\x08\0\0\0\x02\0", b"II*\0\x08\0\0\0\xff\xff"
    )  # more tags than there are
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(io.BytesIO(data)).getexif()
    done = subprocess.run([sys.executable, "-c", QUIET], input=data, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("error", [TypeError("odd"), struct.error("odd"), ZeroDivisionError()])
def test_whatever_a_decoder_raises_is_a_bad_image(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    data = encoded(gradient(8, 8), "PNG")
    monkeypatch.setattr(decoding, "cut", Mock(side_effect=error))
    with pytest.raises(BadImage, match=f"PNG cannot be decoded: {type(error).__name__}"):
        whole(data)
    monkeypatch.setattr(decoding.Image, "open", Mock(side_effect=error))
    with pytest.raises(BadImage, match=f"its header cannot be read: {type(error).__name__}"):
        probe(data)
    monkeypatch.setattr(decoding.Image, "open", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        probe(data)


def mpo() -> bytes:
    """A photograph as phones write it: a second picture behind the first."""
    return encoded(
        Image.fromarray(gradient(40, 20)),
        "MPO",
        quality=95,
        save_all=True,
        append_images=[Image.new("RGB", (40, 20), "red")],
    )


def test_the_first_picture_of_an_mpo_is_the_image() -> None:
    found = probe(mpo())
    assert (found.width, found.height, found.frames) == (40, 20, 2)
    wanted = whole(encoded(gradient(40, 20), "JPEG", quality=95), 16)
    assert np.array_equal(whole(mpo(), 16), wanted)
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = Image.fromarray(gradient(40, 20))
    data = encoded(turned, "MPO", save_all=True, append_images=[turned], exif=exif)
    assert np.abs(whole(data, 16).astype(int) - wanted[::-1, ::-1]).mean() < 3


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"dpi": (72, 72)}, {"comment": b"x"}, {"exif": b"Exif\0\0II*\0"}],
)
def test_the_quick_look_at_a_jpeg_says_what_pillow_says(mode: str, options: dict) -> None:
    image = Image.fromarray(gradient(30, 20)).convert(mode)
    data = encoded(image, "JPEG", **options)
    found = plain_jpeg_size(data)
    assert found in (None, (30, 20, mode))
    assert (found is None) == (mode == "CMYK" or "exif" in options)
    for end in range(len(data)):
        if plain_jpeg_size(data[:end]) is not None:
            assert Image.open(io.BytesIO(data[:end])).size == (30, 20)


@pytest.mark.parametrize("size", [(640, 480), (333, 517), (97, 1001), (31, 17), (1, 1), (2000, 3)])
def test_scaled_decoding_stays_close_to_full_decoding(size: tuple[int, int]) -> None:
    data = encoded(gradient(*size), "JPEG", quality=95)
    full = Image.open(io.BytesIO(data)).convert("RGB")
    for index in range(5):
        crop = Crop(image_size=24)
        found = decode(data, crop, seed=1, epoch=2, index=index)
        box, flip = crop_box(crop, *size, seed=1, epoch=2, index=index)
        wanted = np.asarray(full.resize((24, 24), Image.Resampling.BICUBIC, box=box))
        wanted = wanted[:, ::-1] if flip else wanted
        assert np.abs(found.astype(int) - wanted).mean() < 2.0


@pytest.mark.parametrize("size", [150, 260])
def test_a_photograph_is_cropped_as_pillow_crops_it(size: int) -> None:
    """libjpeg-turbo and torch's resize against Pillow's of the whole image: two grey levels."""
    noise = np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise).resize((300, 200)), "JPEG", quality=90)
    full = Image.open(io.BytesIO(data)).convert("RGB")
    crop = Crop(image_size=size, area=(0.6, 1.0))
    for index in range(8):
        found = decode(data, crop, seed=1, epoch=0, index=index)
        box, flip = crop_box(crop, 300, 200, seed=1, epoch=0, index=index)
        part = full.crop(box)
        wanted = np.asarray(part.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
        wanted = wanted[:, ::-1] if flip else wanted
        assert np.abs(found - wanted).max() <= 2
        assert np.abs(found - wanted).mean() < 0.1


sizes = st.integers(1, 3000)


@given(width=sizes, height=sizes, seed=st.integers(0, 2**64), index=st.integers(0, 2**40))
def test_random_crops_lie_inside_with_the_area_and_ratio_asked(
    width: int, height: int, seed: int, index: int
) -> None:
    crop = Crop(image_size=8, area=(0.25, 0.75), ratio=(0.5, 2.0))
    (left, upper, right, lower), _ = crop_box(crop, width, height, seed=seed, epoch=0, index=index)
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    if min(width, height) > 100 and max(width, height) < 2 * min(width, height):
        share = (right - left) * (lower - upper) / (width * height)
        assert 0.24 < share < 0.76
        assert 0.48 < (right - left) / (lower - upper) < 2.1


def test_crop_is_a_function_of_seed_epoch_and_index() -> None:
    def box(**changes: int) -> object:
        return crop_box(
            Crop(image_size=8), 500, 400, **{"seed": 1, "epoch": 2, "index": 3} | changes
        )

    assert box() == box()
    assert len({str(box(**{name: 9})) for name in ("seed", "epoch", "index")} | {str(box())}) == 4


def test_the_crop_of_a_sample_never_changes() -> None:
    """A run resumed by a later version of this code must see the pixels it would have seen."""
    assert crop_box(Crop(image_size=8), 500, 400, seed=1, epoch=2, index=3) == (
        (171.0, 46.0, 432.0, 384.0),
        False,
    )


def test_half_of_the_samples_are_mirrored() -> None:
    flips = [crop_box(Crop(image_size=8), 9, 9, seed=0, epoch=0, index=i)[1] for i in range(1000)]
    assert 440 < sum(flips) < 560
    never = Crop(image_size=8, flip=False)
    assert not any(crop_box(never, 9, 9, seed=0, epoch=0, index=i)[1] for i in range(50))


def test_center_and_resize_draw_nothing() -> None:
    data = encoded(gradient(40, 30), "PNG")
    for kind in ("center", "resize"):
        crop = Crop(image_size=8, kind=kind)  # pyright: ignore[reportArgumentType]  a literal
        one, other = (decode(data, crop, seed=i, epoch=i, index=i) for i in (0, 5))
        assert np.array_equal(one, other)


def cut(data: bytes, share: float = 0.5) -> bytes:
    return data[: int(len(data) * share)]


def bomb() -> bytes:
    """A PNG header of 30,000 x 30,000 pixels in front of almost nothing."""
    data = bytearray(encoded(gradient(8, 8), "PNG"))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: b"", "not a JPEG, PNG, WEBP image"),
        (lambda: b"hello, world", "not a JPEG, PNG, WEBP image"),
        (lambda: encoded(gradient(8, 8), "GIF"), "not a JPEG, PNG, WEBP image"),
        (lambda: encoded(gradient(8, 8), "EPS"), "not a JPEG, PNG, WEBP image"),
        (lambda: cut(encoded(gradient(64, 64), "JPEG"), 0.9), "cannot be decoded"),
        (lambda: cut(encoded(gradient(64, 64), "PNG")), "cannot be decoded"),
        (lambda: cut(encoded(gradient(64, 64), "WEBP")), r"cannot be|not a"),
        (bomb, r"30000x30000 pixels|header cannot be read"),
        (
            lambda: encoded(
                Image.new("RGB", (8, 8)),
                "PNG",
                save_all=True,
                append_images=[Image.new("RGB", (8, 8), "red")],
            ),
            "animation of 2 frames",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_usable_image_is_refused_by_name(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        whole(make())


def test_limits_come_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(gradient(64, 64), "PNG")
    monkeypatch.setattr(decoding, "CEILING_PIXELS", 64 * 63)
    with pytest.raises(BadImage, match="64x64 pixels, the limit is 4032"):
        whole(data)
    monkeypatch.setattr(decoding, "MAX_BYTES", 10)
    with pytest.raises(BadImage, match="the limit is 10"):
        whole(data)


def test_every_cut_of_a_jpeg_is_an_image_or_a_named_error() -> None:
    data = encoded(gradient(32, 32), "JPEG")
    for end in range(0, len(data), 7):
        try:
            whole(data[:end])
        except BadImage:
            continue


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"kind": "middle"},
        {"area": (0.5, 0.1)},
        {"ratio": (0.0, 1.0)},
        {"resize_fraction": 1.5},
        {"interpolation": "lanczos"},
    ],
)
def test_contradictory_crops_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Crop(**({"image_size": 8} | wrong))  # pyright: ignore[reportArgumentType]  wrong on purpose


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_probing_sees_every_cut_without_decoding(kind: str, options: dict) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    data = encoded(noise, kind, **options)
    for whole in (data, data + b"what a camera appends"):
        found = probe(whole)
        assert (found.format, found.width, found.height, found.frames) == (kind, 24, 32, 1)
    for end in range(0, len(data) - 8, 11):  # the last 8 bytes of a PNG are IEND and its checksum
        with pytest.raises(BadImage):
            probe(data[:end])


INTERRUPTED = """
import sys
from storage.decode import Crop, decode
data = sys.stdin.buffer.read()
assert "torch" not in sys.modules
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch.nn":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
try:
    decode(data, Crop(image_size=16), seed=0, epoch=0, index=0)
except BaseException as error:
    print("lives on after", repr(error))
"""


def test_a_process_whose_import_of_torch_was_interrupted_ends() -> None:
    data = encoded(gradient(64, 64), "JPEG")
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], input=data, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
