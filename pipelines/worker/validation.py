"""Accuracy and loss by the workers that train; the same numbers for any number of them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vit import normalize


def classification(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[dict[str, Any]],
    *,
    device: torch.device,
    micro_batch: int,
) -> Iterator[tuple[str, float]]:
    """Top-1 accuracy in [0, 1] and mean softmax cross-entropy (nats) over all ranks' samples.

    Collective: every rank brings its share. Rows of label -1 are padding and do not count.
    """
    totals = torch.zeros(3, dtype=torch.float64, device=device)  # correct, loss, samples
    for batch in batches:
        images = torch.from_numpy(batch["image"])  # [b, H, W, 3]
        labels = torch.from_numpy(batch["label"])  # [b]
        for x, y in zip(images.split(micro_batch), labels.split(micro_batch), strict=True):
            y = y.to(device)
            logits = forward(normalize(x.to(device))).float()  # [m, classes]
            known = y >= 0
            losses = torch.nn.functional.cross_entropy(logits, y, ignore_index=-1, reduction="none")
            totals[0] += (logits.argmax(dim=1) == y)[known].sum()
            totals[1] += losses[known].double().sum()
            totals[2] += known.sum()
    dist.all_reduce(totals)
    correct, loss, samples = totals.tolist()
    yield "accuracy", correct / samples
    yield "loss", loss / samples
    yield "samples", samples
