"""The paper's losses: softmax, and sigmoid summed over classes for JFT and ImageNet-21k.

And binary cross-entropy as DeiT-III and "ResNet strikes back" have it (arXiv:2204.07118,
arXiv:2110.00476): every class of a mixed image is there, whatever its share, and the loss is the
mean over classes.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["softmax", "sigmoid", "bce"]
Reduction = Literal["mean", "sum"]


def loss_fn(
    kind: Loss,
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Loss of logits [B, C] against labels [B] (int64) or distributions [B, C] (float): a scalar.

    It is computed in float32. The mean is over the batch, so that the average over micro-batches of
    equal size is that of the whole batch; use `reduction="sum"` for unequal ones. The sigmoid loss
    is summed over classes, as in the reference; `bce` is their mean, with each share above 0 as 1.
    """
    classes = logits.shape[-1]
    logits = logits.float()
    if kind == "softmax":
        return F.cross_entropy(
            logits, targets, label_smoothing=label_smoothing, reduction=reduction
        )
    if kind not in ("sigmoid", "bce"):
        raise ValueError(f"unknown loss {kind!r}; known: 'softmax', 'sigmoid', 'bce'")
    if targets.ndim == 1:
        targets = one_hot(targets, classes)
    if kind == "bce":
        targets = (targets > 0).to(logits.dtype)
    targets = targets * (1.0 - label_smoothing) + label_smoothing / classes
    per_class = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    per_sample = per_class.mean(-1) if kind == "bce" else per_class.sum(-1)
    return per_sample.mean() if reduction == "mean" else per_sample.sum()


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Labels [B] (int64) as distributions [B, C] (float32)."""
    # torch's own looks at the labels before, on some devices, and makes eight bytes a class.
    classes = torch.arange(num_classes, device=labels.device)
    return (labels[:, None] == classes).to(torch.float32)
