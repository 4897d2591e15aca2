"""Batches of black images, without a stream."""

import torch
from torch import Tensor

from pipelines.recipes.stage import Stage


def columns(stage: Stage, rows: int, device: torch.device) -> dict[str, Tensor]:
    """A batch as `DeviceBatches` gives it: what the network needs is on the device."""
    side = stage.image_size
    numbers = torch.arange(rows)
    return {
        "image": torch.zeros(rows, side, side, 3, dtype=torch.uint8, device=device),
        "label": (numbers % 3).to(device),
        "mix": torch.zeros(rows, 5, dtype=torch.float64, device=device),
        "index": numbers,
        "visit": torch.zeros_like(numbers),
    }
