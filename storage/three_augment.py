"""3-Augment (DeiT-III, arXiv:2204.07118, section 4.1) and colour jitter, with Pillow's operations.

One of grayscale, solarize and Gaussian blur is applied to every image, each as often as the others.
Colour jitter is torchvision's: brightness, contrast and saturation, in a random order.
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

_THRESHOLD = 128  # values from here on are inverted
_RADII = (0.1, 2.0)  # in pixels, whatever the size of the image
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def three_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make an image gray, solarized or blurred: uint8 [H, W, 3] -> uint8 [H, W, 3]."""
    picture = Image.fromarray(image)
    chosen = int(rng.integers(3))
    if chosen == 0:
        return np.asarray(picture.convert("L").convert("RGB"))
    if chosen == 1:
        return np.asarray(ImageOps.solarize(picture, threshold=_THRESHOLD))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(*_RADII)))))


def color_jitter(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Change brightness, contrast and saturation: uint8 [H, W, 3] -> uint8 [H, W, 3].

    Each by a factor in [1 - strength, 1 + strength].
    """
    picture = Image.fromarray(image)
    factors = rng.uniform(1 - strength, 1 + strength, len(_ENHANCERS))
    for turn in rng.permutation(len(_ENHANCERS)):
        picture = _ENHANCERS[turn](picture).enhance(float(factors[turn]))
    return np.asarray(picture)
