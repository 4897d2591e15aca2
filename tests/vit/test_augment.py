import pytest
import torch
from torch import Tensor

from vit import mix_pairs, normalize, one_hot

SIDE, CLASSES = 24, 5
PIXELS = torch.rand(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
TARGETS = one_hot(torch.arange(8) % CLASSES, CLASSES)
PAIRS = [
    (0.3, 0, 0, 0, 0),  # mixup
    (1 - 6 * 9 / SIDE**2, 4, 10, 15, 24),  # cutmix
    (1.0, 0, 0, 7, 9),  # cutmix whose box lies outside
    (0.0, 0, 0, 0, 0),  # mixup to the other's whole image
]
DRAWS = torch.tensor(PAIRS, dtype=torch.float64).repeat_interleave(2, dim=0)


def test_pixels_go_from_minus_one_to_one_channels_first():
    pixels = normalize(torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8))
    assert pixels.shape == (1, 3, 1, 1)
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_float_images_are_refused():
    with pytest.raises(ValueError, match=r"uint8, found torch\.float32"):
        normalize(torch.zeros(1, 2, 2, 3))


def one_by_one(pixels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same, sample by sample, as the papers say it."""
    mixed, shares = pixels.clone(), targets.clone()
    for i, (share, top, bottom, left, right) in enumerate(DRAWS.tolist()):
        box = (slice(None), slice(int(top), int(bottom)), slice(int(left), int(right)))
        if mixed[i][box].numel():
            mixed[i][box] = pixels[i ^ 1][box]
        else:
            mixed[i] = pixels[i].lerp(pixels[i ^ 1], 1.0 - share)
        own = torch.tensor(share, dtype=torch.float32)
        shares[i] = own * targets[i] + (1.0 - own) * targets[i ^ 1]
    return mixed, shares


def test_pairs_are_mixed_to_the_bit_as_one_by_one():
    for found, expected in zip(
        mix_pairs(PIXELS, TARGETS, DRAWS), one_by_one(PIXELS, TARGETS), strict=True
    ):
        assert torch.equal(found, expected)


def test_targets_stay_distributions_and_the_type_of_pixels_is_kept():
    pixels, targets = mix_pairs(PIXELS.bfloat16(), TARGETS, DRAWS)
    assert (pixels.dtype, targets.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


@pytest.mark.parametrize("size", [2, 4])
def test_a_micro_batch_is_mixed_as_in_the_whole_batch(size):
    whole = mix_pairs(PIXELS, TARGETS, DRAWS)
    cuts = [slice(i, i + size) for i in range(0, 8, size)]
    parts = [mix_pairs(PIXELS[cut], TARGETS[cut], DRAWS[cut]) for cut in cuts]
    for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(found), expected)
