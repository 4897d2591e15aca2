"""3-Augment and colour jitter: Pillow's pixels, each choice as often, drawn from the key."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from storage.augment import AugmentConfig, augment_image
from storage.errors import BadInput
from storage.three_augment import color_jitter, three_augment

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def test_each_image_is_gray_or_solarized_or_blurred_each_as_often() -> None:
    """Gray as torchvision's three channels; solarized from 128 on; blurred by 0.1 to 2 pixels."""
    gray = np.repeat(np.asarray(PICTURE.convert("L"))[:, :, None], 3, axis=2)
    solarized = np.where(PIXELS < 128, PIXELS, 255 - PIXELS)
    assert np.array_equal(solarized, np.asarray(ImageOps.solarize(PICTURE)))
    found: Counter[str] = Counter()
    for seed in range(600):
        changed = three_augment(PIXELS, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        rng.integers(3)
        radius = rng.uniform(0.1, 2.0)
        blurred = np.asarray(PICTURE.filter(ImageFilter.GaussianBlur(radius)))
        kinds = {"gray": gray, "solarized": solarized, "blurred": blurred}
        (kind,) = [name for name, wanted in kinds.items() if np.array_equal(changed, wanted)]
        found[kind] += 1
    assert min(found.values()) > 160
    assert len(found) == 3


def test_colour_jitter_is_pillows_three_enhancements_in_a_random_order() -> None:
    orders: set[tuple[int, ...]] = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        factors, order = rng.uniform(0.7, 1.3, 3), rng.permutation(3)
        orders.add(tuple(order.tolist()))
        wanted = PICTURE
        for turn in order:
            kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[turn]
            wanted = kind(wanted).enhance(factors[turn])
        found = color_jitter(PIXELS, np.random.default_rng(seed), 0.3)
        assert np.array_equal(found, np.asarray(wanted))
    assert len(orders) == 6


@pytest.mark.parametrize(
    "config", [AugmentConfig(three_augment=True), AugmentConfig(color_jitter=0.3)]
)
def test_the_key_of_a_sample_decides(config: AugmentConfig) -> None:
    def drawn(**key: int) -> np.ndarray:
        return augment_image(PIXELS, config, **({"seed": 7, "epoch": 2, "index": 5} | key))  # type: ignore[arg-type]

    assert np.array_equal(drawn(), drawn())
    for other in ({"seed": 8}, {"epoch": 3}, {"index": 6}):
        assert any(
            not np.array_equal(
                drawn(**{name: value + more for name, value in other.items()}), drawn()
            )
            for more in range(4)
        )


def test_they_come_before_randaugment_and_change_nothing_of_its_draws() -> None:
    other = AugmentConfig(randaugment_layers=1, random_erasing=1.0)
    key = {"seed": 1, "epoch": 0, "index": 3}
    both = augment_image(PIXELS, replace(other, three_augment=True), **key)
    first = augment_image(PIXELS, AugmentConfig(three_augment=True), **key)
    assert np.array_equal(both, augment_image(first, other, **key))


def test_an_impossible_strength_is_refused() -> None:
    with pytest.raises(BadInput, match=r"color_jitter must be in \[0, 1\], found 1.5"):
        AugmentConfig(color_jitter=1.5)
