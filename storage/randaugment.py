"""RandAugment (arXiv:1909.13719) as in big_vision: 16 equally likely operations, gray fill.

Kept although surprising: at magnitude 10 solarize does nothing (its threshold is 256), and strength
does not grow with magnitude for every operation. Different from big_vision: distances in pixels are
meant for 224 px and scale with the image; contrast pivots on the mean gray, not the pixel count.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_MAX_MAGNITUDE = 10.0
_GRAY = (128, 128, 128)

Operation = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def rand_augment(
    image: np.ndarray, rng: np.random.Generator, *, layers: int, magnitude: float
) -> np.ndarray:
    """Apply `layers` random operations, one after the other: uint8 [H, W, 3] -> uint8 [H, W, 3]."""
    names = list(OPERATIONS)
    picture = Image.fromarray(image)
    for _ in range(layers):
        operation = OPERATIONS[names[int(rng.integers(len(names)))]]
        picture = operation(picture, magnitude / _MAX_MAGNITUDE, rng)
    return np.asarray(picture)


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Transform by the matrix (a b c d e f): output pixel (x, y) is input pixel
    (ax + by + c, dx + ey + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=_GRAY)


def _rotate(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return image.rotate(30.0 * level * _sign(rng), fillcolor=_GRAY)


def _shear_x(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, 1, 0.3 * level * _sign(rng), 0, 0, 1, 0)


def _shear_y(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, 1, 0, 0, 0.3 * level * _sign(rng), 1, 0)


def _translate_x(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, 1, 0, 100 / 224 * image.width * level * _sign(rng), 0, 1, 0)


def _translate_y(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    return _affine(image, 1, 0, 0, 0, 1, 100 / 224 * image.height * level * _sign(rng))


def _cutout(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    """Make a square gray whose side is twice the radius and whose centre is random."""
    radius_x = round(40 / 224 * image.width * level)
    radius_y = round(40 / 224 * image.height * level)
    x, y = int(rng.integers(image.width)), int(rng.integers(image.height))
    image = image.copy()
    image.paste(_GRAY, (max(x - radius_x, 0), max(y - radius_y, 0), x + radius_x, y + radius_y))
    return image


def _enhance(
    kind: type[
        ImageEnhance.Color
        | ImageEnhance.Contrast
        | ImageEnhance.Brightness
        | ImageEnhance.Sharpness
    ],
) -> Operation:
    """Blend with a degenerate image: factor 0.1 at magnitude 0, 1.9 at 10."""
    return lambda image, level, _: kind(image).enhance(1.8 * level + 0.1)


def _solarize_add(image: Image.Image, level: float, _: np.random.Generator) -> Image.Image:
    addition = int(110 * level)
    return image.point([min(v + addition, 255) if v < 128 else v for v in range(256)] * 3)


def _posterize(image: Image.Image, level: float, _: np.random.Generator) -> Image.Image:
    """Keep the upper bits: 4 of them at magnitude 10, none below 2.5."""
    mask = 0xFF & ~((1 << (8 - min(int(4 * level), 8))) - 1)
    return image.point([v & mask for v in range(256)] * 3)


def _solarize(image: Image.Image, level: float, _: np.random.Generator) -> Image.Image:
    return ImageOps.solarize(image, threshold=int(256 * level))


OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, level, rng: ImageOps.autocontrast(image),
    "equalize": lambda image, level, rng: ImageOps.equalize(image),
    "invert": lambda image, level, rng: ImageOps.invert(image),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "cutout": _cutout,
    "solarize_add": _solarize_add,
}
