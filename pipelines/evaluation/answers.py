"""A network's answers for the images of a split: all that the metrics of a classifier need.

Each image keeps five classes and two numbers, not its logits: 50,000 images x 21,843 classes would
be 4 GB.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

KEPT = 5  # classes per image


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers with one row per image, in the order of `index`."""

    index: np.ndarray
    """Position in the split: int64 [N], ascending."""
    label: np.ndarray
    """The right class: int64 [N]."""
    top: np.ndarray
    """The likeliest classes, likeliest first, ties by class: int64 [N, min(5, C)]."""
    confidence: np.ndarray
    """Softmax probability of the likeliest: float64 [N]."""
    loss: np.ndarray
    """Softmax cross-entropy in nats: float64 [N]."""

    @property
    def right(self) -> np.ndarray:
        """Whether the likeliest class is the right one: bool [N]."""
        return self.top[:, 0] == self.label

    def __len__(self) -> int:
        return len(self.index)

    def columns(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls, columns: dict[str, Any]) -> "Answers":
        """Make answers from columns with rows in any order; other columns are ignored."""
        rows = np.argsort(columns["index"], kind="stable")
        return cls(**{field.name: columns[field.name][rows] for field in fields(cls)})


def answer(logits: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Compute the columns of `Answers`, except index: logits [b, C], labels [b] (-1: padding)."""
    known = labels.clamp(min=0)
    scores = torch.log_softmax(logits.double(), dim=1)  # [b, C]
    top = scores.sort(dim=1, descending=True, stable=True)  # topk does not define the order of ties
    return {
        "label": labels.cpu().numpy(),
        "top": top.indices[:, :KEPT].cpu().numpy(),
        "confidence": top.values[:, 0].exp().cpu().numpy(),
        "loss": -scores.gather(1, known[:, None])[:, 0].cpu().numpy(),
    }
