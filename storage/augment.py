"""Augmentation of training images, drawn where they are decoded.

A sample's randomness is a function of (seed, epoch, position in the split). So it does not depend
on the process that decodes, on the number of workers, or on what else is in the batch. Mixup and
cutmix are only drawn here: the trainer blends the images on its device (`vit.mix_pairs`), because a
sample's partner is its neighbour in the global batch (positions 2i and 2i + 1, both by the draw of
the even one). Crop and flip belong to decoding (`decode.py`).
"""

from dataclasses import dataclass

import numpy as np

from storage.errors import BadInput, BadOrder
from storage.randaugment import rand_augment
from storage.three_augment import color_jitter, three_augment

# A sample draws random numbers separately for each purpose, so that switching one off does not
# change the others.
_MIX, _ERASE, _RANDAUGMENT, _THREE_AUGMENT, _COLOR_JITTER = 1, 2, 3, 4, 5
MIX_COLUMNS = 5
_ERASE_ATTEMPTS = 10  # some shapes do not fit


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images after crop and flip; 0 switches each one off.

    What changes colours comes first: 3-Augment, colour jitter, RandAugment; then random erasing.
    """

    mixup: float = 0.0
    """Alpha of the Beta distribution of mixup (arXiv:1710.09412)."""
    cutmix: float = 0.0
    """Alpha of the Beta distribution of cutmix (arXiv:1905.04899). If mixup is on too, each pair
    gets one of the two, with equal probability."""
    randaugment_layers: int = 0
    """Number of RandAugment operations per image (arXiv:1909.13719)."""
    randaugment_magnitude: float = 10.0
    """Strength of the RandAugment operations, usually 5 to 30."""
    random_erasing: float = 0.0
    """Probability of erasing a rectangle (arXiv:1708.04896)."""
    three_augment: bool = False
    """Make each image gray, solarized or blurred, one of the three (3-Augment of DeiT-III,
    arXiv:2204.07118)."""
    color_jitter: float = 0.0
    """Strength of random changes of brightness, contrast and saturation: factors of 1 minus to 1
    plus this. 0.3 in DeiT-III."""

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with their neighbours, so that a micro-batch must be even."""
        return self.mixup > 0 or self.cutmix > 0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix", "randaugment_layers", "randaugment_magnitude"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} must not be negative, found {getattr(self, name)}")
        for name in ("random_erasing", "color_jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} must be in [0, 1], found {getattr(self, name)}")


NO_AUGMENTATION = AugmentConfig()


def augment_image(
    image: np.ndarray, config: AugmentConfig, *, seed: int, epoch: int, index: int
) -> np.ndarray:
    """Change the pixels of one sample: uint8 [H, W, 3] -> uint8 [H, W, 3].

    Args:
        image: stays as it is.
        config: what is drawn.
        seed: of the stream.
        epoch: which time the sample is drawn, from 0 (`order.Draws.visit`).
        index: position of the sample in the split.
    """
    if config.three_augment:
        image = three_augment(image, _rng(seed, epoch, index, _THREE_AUGMENT))
    if config.color_jitter:
        rng = _rng(seed, epoch, index, _COLOR_JITTER)
        image = color_jitter(image, rng, config.color_jitter)
    if config.randaugment_layers:
        rng = _rng(seed, epoch, index, _RANDAUGMENT)
        layers, magnitude = config.randaugment_layers, config.randaugment_magnitude
        image = rand_augment(image, rng, layers=layers, magnitude=magnitude)
    if config.random_erasing:
        image = _erased(image, _rng(seed, epoch, index, _ERASE), config.random_erasing)
    return image


def mix_draws(
    config: AugmentConfig, *, seed: int, epoch: np.ndarray, index: np.ndarray, side: int
) -> np.ndarray:
    """How each pair of neighbours is mixed: float64 [n, 5].

    A row is the sample's own share of the target, then the box (top, bottom, left, right) that it
    takes from its partner. An empty box stands for mixup: the pixels are blended by the share.

    Args:
        config: with mixup or cutmix on.
        seed: of the stream.
        epoch: which time each sample is drawn, from 0: int64 [n].
        index: position of each sample in the split, int64 [n].
        side: height and width of the images.

    Raises:
        BadOrder: n is odd, so that a sample has no partner.
    """
    if len(index) % 2:
        raise BadOrder(
            f"mixup and cutmix mix pairs of samples, but a worker's share of a batch is"
            f" {len(index)} samples: choose an even one"
        )
    keys = zip(epoch[::2].tolist(), index[::2].tolist(), strict=True)
    pairs = [_mix_draw(config, _rng(seed, *key, _MIX), side) for key in keys]
    return np.repeat(np.array(pairs).reshape(-1, MIX_COLUMNS), 2, axis=0)


def _rng(seed: int, epoch: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, index, purpose])


def _mix_draw(config: AugmentConfig, rng: np.random.Generator, side: int) -> tuple[float, ...]:
    use_cutmix = config.cutmix > 0 and (config.mixup == 0 or rng.random() < 0.5)
    alpha = config.cutmix if use_cutmix else config.mixup
    share = float(rng.beta(alpha, alpha))  # weight of the sample itself, not of its partner
    if not use_cutmix:
        return share, 0, 0, 0, 0
    top, bottom, left, right = _box(rng, side, 1.0 - share)
    return 1.0 - (bottom - top) * (right - left) / side**2, top, bottom, left, right


def _box(rng: np.random.Generator, side: int, area: float) -> tuple[int, int, int, int]:
    """Draw a square (top, bottom, left, right) with `area` of the image's area.

    Its centre may be anywhere; what reaches over the borders is cut off.
    """
    length = round(side * area**0.5)
    top = int(rng.integers(side)) - length // 2
    left = int(rng.integers(side)) - length // 2
    return max(top, 0), min(top + length, side), max(left, 0), min(left + length, side)


def _erased(image: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """Fill a random rectangle of uint8 [H, W, 3] with noise: 2 % to 1/3 of the area."""
    if rng.random() >= probability:
        return image
    height, width, channels = image.shape
    for _ in range(_ERASE_ATTEMPTS):
        area = rng.uniform(0.02, 1 / 3) * height * width
        aspect = float(np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3))))
        box_height, box_width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if box_height < height and box_width < width:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            shape = (box_height, box_width, channels)
            image = image.copy()  # Pillow's is read-only
            image[top : top + box_height, left : left + box_width] = rng.integers(
                0, 256, shape, dtype=np.uint8
            )
            return image
    return image
