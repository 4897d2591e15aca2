"""What is drawn for a sample depends on seed, epoch and position alone."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from storage.augment import NO_AUGMENTATION, AugmentConfig, augment_image, mix_draws
from storage.errors import BadInput, BadOrder
from storage.randaugment import rand_augment

SIDE = 32
IMAGES = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), dtype=np.uint8)
INDEX = np.array([40, 7, 3, 99, 12, 13, 5, 6])
EPOCH = np.full_like(INDEX, 2)
ALL = AugmentConfig(mixup=0.2, cutmix=1.0, randaugment_layers=2, random_erasing=0.5)


def augmented(config: AugmentConfig, seed: int = 7, epoch: int = 2) -> np.ndarray:
    keys = [{"seed": seed, "epoch": epoch, "index": int(index)} for index in INDEX]
    return np.stack(
        [augment_image(i.copy(), config, **key) for i, key in zip(IMAGES, keys, strict=True)]
    )


def draws(config: AugmentConfig, at: slice = slice(None), seed: int = 7) -> np.ndarray:
    return mix_draws(config, seed=seed, epoch=EPOCH[at], index=INDEX[at], side=SIDE)


def test_without_augmentation_an_image_stays_as_it_is():
    assert np.array_equal(augmented(NO_AUGMENTATION), IMAGES)


def test_randaugment_draws_the_numbers_that_the_trainer_drew_before_it_moved_here():
    """Seeds [seed, epoch, index, 3]: another one would change every run of `vit-s16-baseline`."""
    config = AugmentConfig(randaugment_layers=2, randaugment_magnitude=9)
    for found, image, index in zip(augmented(config), IMAGES, INDEX, strict=True):
        rng = np.random.default_rng([7, 2, int(index), 3])
        assert np.array_equal(found, rand_augment(image, rng, layers=2, magnitude=9))


def test_the_draws_of_a_sample_never_change(monkeypatch: pytest.MonkeyPatch):
    """numpy may change what a Generator draws in any release; a resumed run would see other pixels.

    Then its earlier arithmetic has to be written out here, as `storage.permutation` does.
    """
    shares = draws(AugmentConfig(mixup=0.2))[::2, 0]
    assert np.round(shares, 6).tolist() == [0.953823, 0.790214, 0.813355, 0.110425]
    boxes = draws(AugmentConfig(cutmix=1.0))[::2, 1:]
    assert boxes.tolist() == [[0, 13, 0, 14], [0, 20, 0, 19], [0, 14, 7, 28], [21, 32, 24, 32]]
    drawn: list[str] = []

    def noting(name: str):
        def operation(image, level, rng):
            drawn.append(name if rng.random() < 0.5 else name.upper())
            return image

        return operation

    monkeypatch.setattr("storage.randaugment.OPERATIONS", {name: noting(name) for name in "abc"})
    augmented(AugmentConfig(randaugment_layers=2))
    assert "".join(drawn) == "CbBBccaBAAaCcaba"
    erased = augmented(AugmentConfig(random_erasing=1.0))
    assert sha256(erased.tobytes()).hexdigest()[:16] == "4f8a22258a4e3158"


def test_a_switch_does_not_change_what_another_draws():
    erased = augmented(AugmentConfig(random_erasing=1.0))
    both = augmented(AugmentConfig(random_erasing=1.0, mixup=1.0))
    assert np.array_equal(erased, both)
    assert np.array_equal(draws(AugmentConfig(mixup=0.2)), draws(replace(ALL, cutmix=0.0)))


@pytest.mark.parametrize("change", [{"seed": 8}, {"epoch": 3}])
def test_another_seed_or_epoch_augments_differently(change):
    assert not np.array_equal(augmented(ALL), augmented(ALL, **change))


def test_erasing_fills_one_rectangle_of_the_asked_area():
    for image, plain in zip(augmented(AugmentConfig(random_erasing=1.0)), IMAGES, strict=True):
        changed = (image != plain).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert changed.sum() > 0.95 * area  # noise may hit the old value
        assert 0.01 < area / SIDE**2 < 0.36


def test_both_of_a_pair_get_the_draw_of_the_even_one():
    found = draws(ALL)
    assert np.array_equal(found[::2], found[1::2])
    assert np.array_equal(found[2:6], draws(ALL, slice(2, 6)))


def test_a_box_is_of_the_area_that_the_share_says():
    share, top, bottom, left, right = draws(AugmentConfig(cutmix=1.0)).T
    assert share == pytest.approx(1 - (bottom - top) * (right - left) / SIDE**2)
    assert ((top >= 0) & (bottom <= SIDE) & (left >= 0) & (right <= SIDE)).all()


def test_mixup_shares_follow_the_beta_distribution():
    index = np.arange(4000)
    config = AugmentConfig(mixup=0.2)
    found = mix_draws(config, seed=0, epoch=np.zeros_like(index), index=index, side=SIDE)
    share, box = found[::2, 0], found[:, 1:]
    assert share.mean() == pytest.approx(0.5, abs=0.03)
    assert share.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.05)
    assert not box.any()


def test_an_odd_share_cannot_be_mixed():
    with pytest.raises(BadOrder, match=r"3 samples"):
        draws(AugmentConfig(mixup=0.2), slice(3))


@pytest.mark.parametrize("change", [{"mixup": -1.0}, {"random_erasing": 1.5}])
def test_impossible_settings_are_refused(change):
    with pytest.raises(BadInput, match=next(iter(change))):
        replace(ALL, **change)
