"""Augmentation of a batch. A sample's randomness is a function of (seed, epoch, sample index).

So the result does not depend on which worker augments it, on how many there are, or on what else is
in the batch - save for mixup and cutmix, whose partner is the neighbour in the global batch
(positions 2i and 2i + 1; both take their random numbers from the even one). Batches must therefore
be cut at even places, which any even micro-batch is. Crop and flip happened at decoding.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vit.errors import BadModel
from vit.losses import one_hot
from vit.randaugment import rand_augment

# A sample draws random numbers separately for each purpose, so that switching one off does not
# change the others.
_MIX, _ERASE, _RANDAUGMENT = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images after crop and flip; 0 switches each one off."""

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

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with their neighbours, so that a micro-batch must be even."""
        return self.mixup > 0 or self.cutmix > 0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix", "randaugment_layers", "randaugment_magnitude"):
            if getattr(self, name) < 0:
                raise BadModel(f"{name} must not be negative, found {getattr(self, name)}")
        if not 0 <= self.random_erasing <= 1:
            raise BadModel(f"random_erasing must be in [0, 1], found {self.random_erasing}")


def normalize(images: Tensor) -> Tensor:
    """Pixels to [-1, 1], channels first: uint8 [B, H, W, C] -> float32 [B, C, H, W]."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, found {images.dtype}")
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def augment_batch(
    images: Tensor,
    labels: Tensor,
    *,
    sample_index: Tensor,
    epoch: Tensor,
    seed: int,
    config: AugmentConfig,
    num_classes: int,
) -> tuple[Tensor, Tensor]:
    """Augment and normalise: uint8 [B, H, W, 3], int64 [B] -> float32 [B, 3, H, W], targets.

    `sample_index` and `epoch` are int64 [B]. Targets are the labels, int64 [B], or with mixup or
    cutmix distributions, float32 [B, num_classes].
    Raises BadModel if mixup or cutmix is on and the batch has an odd number of samples.
    """
    keys = list(zip(epoch.tolist(), sample_index.tolist(), strict=True))
    if config.randaugment_layers:
        images = torch.stack(
            [
                _rand_augment(image, _rng(seed, *key, _RANDAUGMENT), config)
                for image, key in zip(images, keys, strict=True)
            ]
        )
    pixels = normalize(images)
    if config.random_erasing:
        for image, key in zip(pixels, keys, strict=True):
            _erase_(image, _rng(seed, *key, _ERASE), config.random_erasing)
    if not config.mixes:
        return pixels, labels
    if len(keys) % 2:
        raise BadModel(f"mixup and cutmix need an even number of samples, found {len(keys)}")
    rngs = [_rng(seed, *key, _MIX) for key in keys[::2]]
    return _mix(pixels, one_hot(labels, num_classes), rngs, config)


def _rng(seed: int, epoch: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, index, purpose])


def _rand_augment(image: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """RandAugment on the CPU, where its operations live: uint8 [H, W, 3] -> uint8 [H, W, 3]."""
    augmented = rand_augment(
        image.cpu().numpy(),
        rng,
        layers=config.randaugment_layers,
        magnitude=config.randaugment_magnitude,
    )
    return torch.from_numpy(augmented.copy()).to(image.device)


def _mix(
    pixels: Tensor, targets: Tensor, rngs: list[np.random.Generator], config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """Mix each pair of neighbours; `rngs` has one generator per pair."""
    height, width = pixels.shape[-2:]
    partner = pixels.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)  # 0 1 2 3 -> 1 0 3 2
    mixed = pixels.clone()
    shares: list[float] = []
    for pair, rng in enumerate(rngs):
        both = slice(2 * pair, 2 * pair + 2)
        use_cutmix = config.cutmix > 0 and (config.mixup == 0 or rng.random() < 0.5)
        alpha = config.cutmix if use_cutmix else config.mixup
        share = float(rng.beta(alpha, alpha))  # weight of the sample itself, not of its partner
        if use_cutmix:
            top, bottom, left, right = _box(rng, height, width, 1.0 - share)
            mixed[both, :, top:bottom, left:right] = partner[both, :, top:bottom, left:right]
            share = 1.0 - (bottom - top) * (right - left) / (height * width)
        else:
            mixed[both] = pixels[both].lerp(partner[both], 1.0 - share)
        shares += [share, share]
    own = torch.tensor(shares, dtype=targets.dtype, device=targets.device)[:, None]
    other = targets.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return mixed, own * targets + (1.0 - own) * other


def _box(
    rng: np.random.Generator, height: int, width: int, area: float
) -> tuple[int, int, int, int]:
    """Draw a box (top, bottom, left, right) with the image's aspect ratio and `area` of its area.

    Its centre may be anywhere; what reaches over the borders is cut off.
    """
    box_height, box_width = round(height * area**0.5), round(width * area**0.5)
    top = int(rng.integers(height)) - box_height // 2
    left = int(rng.integers(width)) - box_width // 2
    bottom, right = min(top + box_height, height), min(left + box_width, width)
    return max(top, 0), bottom, max(left, 0), right


def _erase_(image: Tensor, rng: np.random.Generator, probability: float) -> None:
    """Fill a random rectangle of [C, H, W] with noise, in place: 2 % to 1/3 of the area."""
    if rng.random() >= probability:
        return
    channels, height, width = image.shape
    for _ in range(10):  # some shapes do not fit; ten tries as usual, then leave it
        area = rng.uniform(0.02, 1 / 3) * height * width
        aspect = float(np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3))))
        box_height, box_width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if box_height < height and box_width < width:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            noise = rng.uniform(-1.0, 1.0, (channels, box_height, box_width)).astype(np.float32)
            image[:, top : top + box_height, left : left + box_width] = torch.from_numpy(noise)
            return
