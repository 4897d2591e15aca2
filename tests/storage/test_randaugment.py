import numpy as np
import pytest

from storage.randaugment import OPERATIONS, rand_augment

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
@pytest.mark.parametrize("magnitude", [0.0, 5.0, 10.0, 30.0])
def test_every_operation_keeps_shape_and_type(name, magnitude, monkeypatch):
    monkeypatch.setattr("storage.randaugment.OPERATIONS", {name: OPERATIONS[name]})
    result = rand_augment(IMAGE, np.random.default_rng(0), layers=1, magnitude=magnitude)
    assert (result.shape, result.dtype) == (IMAGE.shape, np.uint8)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"solarize"}))
def test_every_operation_but_solarize_changes_the_image_at_magnitude_ten(name, monkeypatch):
    image = IMAGE // 4 + 20  # room for contrast
    monkeypatch.setattr("storage.randaugment.OPERATIONS", {name: OPERATIONS[name]})
    result = rand_augment(image, np.random.default_rng(0), layers=1, magnitude=10)
    assert not np.array_equal(result, image)


def test_no_layers_leave_the_image():
    assert np.array_equal(
        rand_augment(IMAGE, np.random.default_rng(0), layers=0, magnitude=9), IMAGE
    )


def test_the_same_generator_draws_the_same_image():
    first, second = (
        rand_augment(IMAGE, np.random.default_rng(3), layers=2, magnitude=10) for _ in range(2)
    )
    assert np.array_equal(first, second)


def test_every_operation_is_drawn_alike(monkeypatch):
    drawn = dict.fromkeys(OPERATIONS, 0)

    def counted(name):
        def operation(image, level, rng):
            drawn[name] += 1
            return image

        return operation

    monkeypatch.setattr(
        "storage.randaugment.OPERATIONS", {name: counted(name) for name in OPERATIONS}
    )
    rand_augment(IMAGE, np.random.default_rng(0), layers=16_000, magnitude=10)
    assert all(abs(count - 1000) < 150 for count in drawn.values()), drawn


def test_translation_moves_by_a_share_of_the_side(monkeypatch):
    monkeypatch.setattr("storage.randaugment.OPERATIONS", {"x": OPERATIONS["translate_x"]})
    image = np.zeros((8, 224, 3), dtype=np.uint8)
    moved = rand_augment(image, np.random.default_rng(0), layers=1, magnitude=10)
    assert (moved == 128).all(axis=(0, 2)).sum() == 100


def test_posterize_keeps_four_bits_at_magnitude_ten(monkeypatch):
    monkeypatch.setattr("storage.randaugment.OPERATIONS", {"p": OPERATIONS["posterize"]})
    result = rand_augment(IMAGE, np.random.default_rng(0), layers=1, magnitude=10)
    assert np.array_equal(result, IMAGE & 0xF0)
