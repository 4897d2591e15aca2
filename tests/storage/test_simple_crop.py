"""The simple random crop: resize, mirror four pixels around, cut out a square."""

import io

import numpy as np
import pytest
from PIL import Image

from storage.decode import Crop, decode
from storage.simple_crop import PADDING, window
from tests.storage.support.images import encoded, gradient

SIDE = 16


@pytest.mark.parametrize(
    ("width", "height", "kind"),
    [(40, 24, "JPEG"), (24, 40, "PNG"), (32, 32, "PNG"), (16, 19, "PNG"), (9, 12, "JPEG")],
)
def test_pixels_are_those_of_resize_pad_and_crop(width: int, height: int, kind: str) -> None:
    """torchvision's Resize(16), RandomCrop(16, padding=4, padding_mode="reflect"), by hand."""
    options = {} if kind == "PNG" else {"quality": 95, "subsampling": 0}
    data = encoded(gradient(width, height), kind, **options)
    with Image.open(io.BytesIO(data)) as image:
        short = min(width, height)
        size = (SIDE * width // short, SIDE * height // short)
        resized = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    pad = ((PADDING, PADDING), (PADDING, PADDING), (0, 0))
    padded = np.pad(resized, pad, mode="reflect").astype(int)
    rows, columns = padded.shape[0] - SIDE + 1, padded.shape[1] - SIDE + 1
    places: set[tuple[int, int, bool]] = set()
    for index in range(70):
        crop = Crop(image_size=SIDE, kind="simple")
        found = decode(data, crop, seed=3, epoch=1, index=index).astype(int)
        errors = {
            (top, left, flip): np.abs(
                padded[top : top + SIDE, left : left + SIDE][:, :: -1 if flip else 1] - found
            ).mean()
            for top in range(rows)
            for left in range(columns)
            for flip in (False, True)
        }
        best = min(errors, key=lambda place: errors[place])
        assert errors[best] < 1.0, (index, best, errors[best])
        places.add(best)
    assert {top for top, _, _ in places} == set(range(rows))
    assert len({left for _, left, _ in places}) > 0.7 * columns
    assert {flip for _, _, flip in places} == {False, True}


def test_the_window_goes_four_pixels_beyond_each_border() -> None:
    first, last = (window(32, 32, SIDE, (draw, draw)) for draw in (0.0, 1 - 1e-9))
    assert (first.box, first.down, first.right) == ((0, 0, 32, 32), -PADDING, -PADDING)
    assert (last.box, last.down, last.right) == ((0, 0, 32, 32), PADDING, PADDING)
    inside = window(64, 32, SIDE, (0.5, 0.5))
    assert (inside.box, inside.down, inside.right) == ((16, 0, 48, 32), 0, 0)


def test_no_flip_is_never_mirrored() -> None:
    data = encoded(gradient(SIDE, SIDE), "PNG")
    crop = Crop(image_size=SIDE, kind="simple", flip=False)
    reds = [decode(data, crop, seed=0, epoch=0, index=i)[8, 4:12, 0].astype(int) for i in range(40)]
    assert all((np.diff(red) >= 0).mean() > 0.6 for red in reds)
