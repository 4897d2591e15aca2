"""What timm's and transformers' own preprocessing makes of the bytes of an image."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from io import BytesIO
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.vit.support.peers import import_timm

Pixels = Callable[[bytes], Tensor]


def timm_pixels(said: Mapping[str, Any]) -> Pixels:
    """The transform of timm's data config: bytes -> float32 [1, 3, H, W], normalised.

    `timm.data.create_transform` needs torchvision. Where that is not there, this is what it makes
    of the configuration; with torchvision 0.28 the tensors of both were equal bit for bit.
    """
    if find_spec("torchvision") is not None:
        transform: Any = import_timm().data.create_transform(**said)
        return lambda data: transform(Image.open(BytesIO(data)).convert("RGB"))[None]
    side, resample = said["input_size"][1], Image.Resampling[said["interpolation"].upper()]

    def pixels(data: bytes) -> Tensor:
        image = Image.open(BytesIO(data)).convert("RGB")
        scale = floor(side / said["crop_pct"])
        if said["crop_mode"] == "squash":
            image = image.resize((scale, scale), resample)
        else:
            short = min(image.size)
            size = (int(scale * image.width / short), int(scale * image.height / short))
            image = image.resize(size, resample)
        left, upper = round((image.width - side) / 2), round((image.height - side) / 2)
        part = np.asarray(image.crop((left, upper, left + side, upper + side)))
        return as_input(part, said["mean"], said["std"])

    return pixels


def transformers_pixels(folder: Path) -> Pixels:
    """The processor of a folder with a `preprocessor_config.json`."""
    from transformers import AutoImageProcessor

    processor: Any = AutoImageProcessor.from_pretrained(folder)
    return lambda data: processor(Image.open(BytesIO(data)), return_tensors="pt")["pixel_values"]


def as_input(pixels: np.ndarray, mean: list[float], std: list[float]) -> Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W], normalised."""
    x = torch.tensor(pixels).permute(2, 0, 1)[None] / 255  # [1, 3, H, W]
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
