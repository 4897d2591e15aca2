"""How the files beside a checkpoint say that an image is cut, for `settings`.

timm       crop_pct, crop_mode, interpolation of pretrained_cfg
           (timm/data/transforms_factory.py: floor(size / crop_pct) pixels, then the centre)
Hugging    size, crop_size, do_center_crop, resample of preprocessor_config.json; a `size` that is
Face       one number is the shorter side for CLIP's and BiT's processors, else both sides

Models here see the centre of an image at a share of its shorter side, or the whole image, resized
by an antialiased bicubic or bilinear filter. What files say beyond that is a note.
"""

from collections.abc import Mapping
from math import floor
from typing import Any

from vit.preprocessing import Interpolation, Preprocessing

_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by number."""
Crop = tuple[Preprocessing | None, tuple[str, ...]]
"""The crop, None if the files say none that can be made here, and notes about what cannot."""


def timm_crop(pixels: Mapping[str, Any], image_size: int | None) -> Crop:
    """The crop that timm's `pretrained_cfg` states, for images of this size.

    timm resizes to whole pixels: of crop_pct 0.9 at 224 pixels become 224 / 248.
    """
    share, mode = pixels.get("crop_pct"), pixels.get("crop_mode") or "center"
    said = f"config.json: crop_mode {mode}, crop_pct {share}"
    interpolation, notes = _filter("config.json", pixels.get("interpolation"))
    if mode == "center" and share:
        whole = image_size / floor(image_size / share) if image_size and share <= 1 else share
        return _center(said, float(whole), interpolation, notes)
    if mode == "squash" and share in (None, 1):
        return Preprocessing(crop="resize", interpolation=interpolation), notes
    if mode == "center":
        return None, notes
    return None, (*notes, _cannot(said))


def hugging_face_crop(pixels: Mapping[str, Any]) -> Crop:
    """The crop that `preprocessor_config.json` states; its content may be empty."""
    size, file = pixels.get("size"), "preprocessor_config.json"
    interpolation, notes = _filter(file, pixels.get("resample"))
    if size is None or pixels.get("do_resize") is False:
        return None, notes
    kind = str(pixels.get("image_processor_type") or pixels.get("feature_extractor_type") or "")
    if isinstance(size, int):
        by_shorter = kind.startswith(("CLIP", "Bit"))
        size = {"shortest_edge": size} if by_shorter else {"height": size, "width": size}
    cut = _side(pixels.get("crop_size")) if pixels.get("do_center_crop") else None
    shorter, whole = size.get("shortest_edge"), _side(size)
    if shorter and cut and cut <= shorter:
        return _center(
            f"{file}: {shorter} pixels, of which {cut}", cut / shorter, interpolation, notes
        )
    if whole and cut in (None, whole):
        return Preprocessing(crop="resize", interpolation=interpolation), notes
    said = f"{file}: size {size}" + (f", crop_size {pixels['crop_size']}" if cut else "")
    return None, (*notes, _cannot(said))


def _center(said: str, share: float, interpolation: Interpolation, notes: tuple[str, ...]) -> Crop:
    if not 0 < share <= 1:
        return None, (*notes, _cannot(said))
    crop = Preprocessing(crop="center", crop_fraction=share, interpolation=interpolation)
    return crop, notes


def _side(size: Any) -> int | None:
    """Side of a square of pixels, {"height": 224, "width": 224} or 224; None for other sizes."""
    if isinstance(size, Mapping):
        size = size.get("height") if size.get("height") == size.get("width") else None
    return size


def _filter(file: str, said: Any) -> tuple[Interpolation, tuple[str, ...]]:
    """The filter to resize with, and a note if the file names one that is not made here."""
    name = _FILTERS[said] if isinstance(said, int) and 0 <= said < len(_FILTERS) else said
    if name == "bilinear":
        return "bilinear", ()
    if name in (None, "bicubic"):
        return "bicubic", ()
    return "bicubic", (
        f"{file}: interpolation {name}; images are resized by a bicubic filter here",
    )


def _cannot(said: str) -> str:
    return f"{said}: not a crop of this program, which takes the centre or the whole image"
