"""How an image becomes the pixels of a network, as other libraries state it in their folders.

The networks here take pixels in [-1, 1], so mean and standard deviation are 0.5; `normalize` does
it. Crop and resize happen before that, where images are decoded; an export has to be told of them.
"""

from dataclasses import dataclass
from math import floor
from typing import Any, Literal

from vit.errors import BadModel

Interpolation = Literal["bicubic", "bilinear"]
MEAN = STD = (0.5, 0.5, 0.5)
_PILLOW = {"bilinear": 2, "bicubic": 3}  # its numbers of the filters


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The crop of an evaluation. Resizing is antialiased, as Pillow's."""

    crop: Literal["center", "resize"] = "center"
    """`center`: resize the shorter side, cut out the centre. `resize`: resize the whole image to
    the network's size, whatever its aspect ratio."""
    crop_fraction: float = 224 / 256
    """For `center`, the crop's side divided by the shorter side of the resized image."""
    interpolation: Interpolation = "bicubic"
    """Filter of the resize."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_fraction <= 1:
            raise BadModel(f"crop_fraction must be within (0, 1], found {self.crop_fraction}")

    def __str__(self) -> str:
        cut = self.crop if self.crop == "resize" else f"center {self.crop_fraction:.4g}"
        return cut if self.interpolation == "bicubic" else f"{cut} {self.interpolation}"

    def shorter_side(self, image_size: int) -> int:
        """Length in pixels that the shorter side is resized to before the centre is cut out."""
        return round(image_size / self.crop_fraction)

    def timm(self, image_size: int) -> dict[str, Any]:
        """Return fields of timm's `pretrained_cfg`; its name for a plain resize is `squash`.

        timm resizes to floor(image_size / crop_pct) pixels, which must not become one too few
        where the quotient is whole but for its last bit.
        """
        whole, share = self.crop == "resize", self.crop_fraction
        if floor(image_size / share) < floor(image_size / share + 1e-6):
            share -= 1e-8
        return {
            "mean": list(MEAN),
            "std": list(STD),
            "interpolation": self.interpolation,
            "crop_pct": 1.0 if whole else share,
            "crop_mode": "squash" if whole else "center",
        }

    def hugging_face(self, height: int, width: int) -> dict[str, Any]:
        """Return the content of `preprocessor_config.json`.

        A centre crop needs another class than ViT's own, whose slow version ignores it: BiT's, as
        DINOv2 uses it.
        """
        size = {"height": height, "width": width}
        steps = (
            {"image_processor_type": "ViTImageProcessor", "size": size}
            if self.crop == "resize"
            else {
                "image_processor_type": "BitImageProcessor",
                "size": {"shortest_edge": self.shorter_side(min(height, width))},
                "do_center_crop": True,
                "crop_size": size,
            }
        )
        return {
            **steps,
            "do_convert_rgb": True,
            "do_resize": True,
            "resample": _PILLOW[self.interpolation],
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(MEAN),
            "image_std": list(STD),
        }

    def plain(self, height: int, width: int) -> dict[str, Any]:
        """Return plain values, for formats that have no file of their own for this."""
        return {
            "image_size": [height, width],
            "crop": self.crop,
            "crop_fraction": self.crop_fraction if self.crop == "center" else None,
            "interpolation": self.interpolation,
            "mean": list(MEAN),
            "std": list(STD),
        }
