from dataclasses import replace

import pytest
import torch

from vit import AugmentConfig, augment_batch, normalize

IMAGES = torch.randint(
    0, 256, (8, 24, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.arange(8) % 5
INDEX = torch.tensor([40, 7, 3, 99, 12, 13, 5, 6])
ALL = AugmentConfig(mixup=0.2, cutmix=1.0, randaugment_layers=2, random_erasing=0.5)


def augmented(config=ALL, at=slice(None), seed=0, epoch=0):
    index = INDEX[at]
    return augment_batch(
        IMAGES[at],
        LABELS[at],
        sample_index=index,
        epoch=torch.full_like(index, epoch),
        seed=seed,
        config=config,
        num_classes=5,
    )


def test_pixels_go_from_minus_one_to_one_channels_first():
    pixels = normalize(torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8))
    assert pixels.shape == (1, 3, 1, 1)
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_float_images_are_refused():
    with pytest.raises(ValueError, match=r"uint8, found torch\.float32"):
        normalize(torch.zeros(1, 2, 2, 3))


def test_all_off_is_normalisation():
    pixels, targets = augmented(AugmentConfig())
    assert torch.equal(pixels, normalize(IMAGES))
    assert torch.equal(targets, LABELS)


@pytest.mark.parametrize(
    "config",
    [
        ALL,
        AugmentConfig(mixup=0.2),
        AugmentConfig(cutmix=1.0),
        AugmentConfig(random_erasing=0.9),
        AugmentConfig(randaugment_layers=2),
    ],
    ids=["all", "mixup", "cutmix", "erasing", "randaugment"],
)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_batch_is_the_same_for_any_number_of_workers(config, workers):
    whole, targets = augmented(config)
    size = 8 // workers
    parts = [augmented(config, at=slice(i, i + size)) for i in range(0, 8, size)]
    assert torch.equal(torch.cat([pixels for pixels, _ in parts]), whole)
    assert torch.equal(torch.cat([part for _, part in parts]), targets)


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_another_seed_or_epoch_augments_differently(change):
    assert not torch.equal(augmented()[0], augmented(**change)[0])


def test_mixup_blends_neighbours_by_their_targets_shares():
    pixels, targets = augmented(AugmentConfig(mixup=1.0))
    plain = normalize(IMAGES)
    for i in range(8):
        share = targets[i, LABELS[i]]
        torch.testing.assert_close(
            pixels[i], share * plain[i] + (1 - share) * plain[i ^ 1], atol=1e-5, rtol=0
        )
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


def test_cutmix_shares_are_the_areas():
    pixels, targets = augmented(AugmentConfig(cutmix=1.0))
    plain = normalize(IMAGES)
    for i in range(8):
        own = (pixels[i] == plain[i]).all(dim=0)
        assert ((pixels[i] == plain[i ^ 1]).all(dim=0) | own).all()
        assert own.float().mean().item() == pytest.approx(targets[i, LABELS[i]].item(), abs=0.01)


def test_mixup_shares_follow_the_beta_distribution():
    index = torch.arange(4000)
    images = torch.zeros(4000, 1, 1, 3, dtype=torch.uint8)
    _, targets = augment_batch(
        images,
        index % 2,
        sample_index=index,
        epoch=torch.zeros_like(index),
        seed=0,
        config=AugmentConfig(mixup=0.2),
        num_classes=2,
    )
    share = targets[::2, 0]
    assert share.mean().item() == pytest.approx(0.5, abs=0.03)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.05)


def test_an_odd_batch_cannot_be_mixed():
    with pytest.raises(ValueError, match=r"mixup and cutmix .* found 3"):
        augmented(AugmentConfig(mixup=0.2), at=slice(3))


def test_erasing_fills_one_rectangle_of_the_asked_area():
    pixels, targets = augmented(AugmentConfig(random_erasing=1.0))
    assert torch.equal(targets, LABELS)
    for image, plain in zip(pixels, normalize(IMAGES), strict=True):
        changed = (image != plain).any(dim=0)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert changed.sum() > 0.95 * height * width  # noise may hit the old value
        assert 0.01 < height * width / (24 * 32) < 0.36
        assert image.abs().max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mixup": -1.0}, "mixup"), ({"random_erasing": 1.5}, "random_erasing")],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(ALL, **change)
