"""The model of a worker that computes and does not train.

A worker uses one CPU thread or one GPU, and equal batches give equal bits on every worker.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cluster.precision import element_type, set_arithmetic
from vit import Config, build_model, normalize


class Network:
    """A model with weights, on one device.

    Args:
        config: the model.
        weights: its tensors, as arrays by name.
        precision: of the arithmetic.
        device: where it computes.
    """

    def __init__(
        self,
        config: Config,
        weights: Mapping[str, np.ndarray],
        precision: Literal["float32", "bfloat16"],
        *,
        device: str,
    ) -> None:
        torch.set_num_threads(1)  # the number of threads would change the last bits
        torch.backends.cudnn.deterministic = True
        set_arithmetic(precision)
        self.device = torch.device(device)
        self.dtype = element_type(precision)
        model = build_model(config, seed=None)
        model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
        self.model = model.to(self.device, self.dtype).eval()

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> Tensor:
        """Compute what goes into the head: uint8 [b, H, W, 3] -> [b, D]."""
        pixels = normalize(torch.tensor(images).to(self.device)).to(self.dtype)
        return self.model.forward_head(self.model.forward_features(pixels), pre_logits=True)

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """Compute the outputs of the head: [b, D] -> float32 [b, C]."""
        return self.model.head(features).float()
