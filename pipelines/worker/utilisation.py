"""MFU: model FLOPs utilisation, the share of the accelerators' peak that training reaches.

As arXiv:2204.02311, appendix B: what the model needs for an image (`vit.trained`: three forward
passes, or fewer where a part is trained; nothing for what activation checkpointing computes again),
over the peak of the number format that is trained in. Where the peak is not known there is no MFU.
"""

import torch

from pipelines.planning.hardware import NODE_KINDS
from pipelines.recipes.objectives import stage_training_flops
from pipelines.recipes.stage import Stage

# Names as CUDA gives them, and a kind of node that has them. Not "H100" alone: the PCIe and NVL
# cards are slower than the SXM module.
_NODES = {
    "NVIDIA A100": "p4d",
    "NVIDIA H100 80GB HBM3": "p5",
    "NVIDIA H200": "p5e",
    "NVIDIA L40S": "g6e",
    "NVIDIA A10G": "g5",
}


def device_name(device: torch.device) -> str:
    """What CUDA calls an accelerator, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_flops(device: str, precision: str) -> float | None:
    """Peak of an accelerator in FLOP/s; None where it is not known (every CPU).

    Args:
        device: from `device_name`.
        precision: of the stage.
    """
    nodes = [node for name, node in _NODES.items() if device.startswith(name)]
    if not nodes:
        return None
    return 1e12 * NODE_KINDS[nodes[0]].tflops(precision)


class Utilisation:
    """MFU of a stage on so many workers."""

    def __init__(self, stage: Stage, *, device: str, workers: int) -> None:
        self._share_per_rate: float | None = None  # MFU at one image a second
        peak = peak_flops(device, stage.precision)
        if peak:
            flops = stage_training_flops(stage)
            self._share_per_rate = flops / (peak * workers)

    def metrics(self, images_per_second: float) -> dict[str, float]:
        """`train/mfu` within (0, 1), or nothing where the peak is not known."""
        if self._share_per_rate is None:
            return {}
        return {"train/mfu": images_per_second * self._share_per_rate}
