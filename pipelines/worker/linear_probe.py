"""How well a linear map reads the labels from features, while a network learns without labels.

The paper's few-shot measure: least squares with l2 regularisation onto targets of -1 and 1, in
closed form (section 4.1 of arXiv:2010.11929). Fitted to the even positions of the validation split
and measured on the odd ones, it needs no other images than the evaluation reads anyway.
"""

import torch
import torch.distributed as dist
from torch import Tensor

L2 = 1e-3
"""Strength, in units of the mean square of the standardised features, which is 1."""
_EPSILON = 1e-5  # added to the standard deviation


def probe_accuracy(features: Tensor, labels: Tensor, positions: Tensor) -> float | None:
    """Accuracy in [0, 1] over all ranks' samples; None where there are fewer than two classes.

    Collective, in float64. Ranks bring any number of samples. It waits for the device.

    Args:
        features: [n, D] of this rank.
        labels: int64 [n] on the same device; -1 is padding.
        positions: int64 [n] of the samples in the split, on the same device.
    """
    usable = labels >= 0
    features, labels, positions = features[usable], labels[usable], positions[usable]
    classes = torch.tensor(int(labels.max()) + 1 if len(labels) else 0, device=labels.device)
    dist.all_reduce(classes, dist.ReduceOp.MAX)
    if classes < 2:
        return None
    fitted = positions % 2 == 0
    x, own = features.double(), labels[fitted]
    weights = _fit(x[fitted], own, int(classes), *_statistics(x[fitted]))
    right = (_with_bias(x[~fitted], *weights[1:]) @ weights[0]).argmax(dim=1) == labels[~fitted]
    counts = torch.stack([right.sum(), torch.tensor(len(right), device=right.device)])
    dist.all_reduce(counts)
    correct, samples = counts.tolist()
    return correct / samples if samples else None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature over all ranks: [n, D] -> twice [D]."""
    sums = torch.cat([x.sum(dim=0), x.square().sum(dim=0), x.new_tensor([len(x)])])
    dist.all_reduce(sums)
    total, squares = (sums[:-1] / sums[-1].clamp_min(1)).chunk(2)
    return total, (squares - total.square()).clamp_min(0).sqrt() + _EPSILON


def _fit(
    x: Tensor, labels: Tensor, classes: int, mean: Tensor, deviation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The map [D + 1, C], with the mean and deviation that it expects."""
    inputs = _with_bias(x, mean, deviation)  # [n, D + 1]
    targets = x.new_full((len(x), classes), -1.0)
    targets[torch.arange(len(x), device=x.device), labels] = 1.0
    sums = torch.cat([inputs.T @ inputs, inputs.T @ targets], dim=1)  # [D + 1, D + 1 + C]
    dist.all_reduce(sums)
    gram, answers = sums[:, : len(sums)], sums[:, len(sums) :]
    samples = gram[-1, -1]  # of the bias, which is 1
    gram = gram + L2 * samples * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, answers), mean, deviation


def _with_bias(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Standardised, with a column of ones: [n, D] -> [n, D + 1]."""
    return torch.cat([(x - mean) / deviation, x.new_ones(len(x), 1)], dim=1)
