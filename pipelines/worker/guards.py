"""A loss or gradient that is no number: in which step, on which ranks, from which samples."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.worker.collectives import _gathered
from storage.columns import StreamSpec
from storage.dataset import load_dataset
from storage.index import load_index
from storage.reader import read_samples

ADVICE = (
    "Nothing of it was saved: lower optim.peak_lr, set optim.clip_norm or look at these samples,"
    " then run it again"
)
MOST_SKIPPED = 10
"""Steps in a row whose loss is no number: their cause are the weights, not some samples."""
_NAMED = 3


@dataclass(frozen=True)
class TrainedStep:
    """What a rank remembers of a step until it is reported."""

    step: int
    """Steps done with it."""
    lr: float
    loss: Tensor
    """[] of this rank, on its device."""
    positions: Tensor
    """int64 [b] of the rank's samples."""


def explain_nonfinite(steps: list[TrainedStep], losses: Tensor, spec: StreamSpec) -> str:
    """One line about the first loss that is no number; `losses` are this rank's: [steps].

    Collective: every rank calls, with at least one bad loss among them, and gets the same line.
    """
    bad = _gathered((~torch.isfinite(losses)).long())  # [W, steps]
    first = int(bad.any(dim=0).int().argmax())
    ranks = bad[:, first].nonzero().flatten().tolist()
    positions = _gathered(steps[first].positions.to(losses.device))  # [W, b]
    keys = _keys(spec, positions[ranks[0], :_NAMED].cpu().numpy())
    where = "every rank" if len(ranks) == len(bad) else f"rank {', '.join(map(str, ranks))}"
    return (
        f"the loss of step {steps[first].step} is no number on {where} of {len(bad)}; the batch of"
        f" rank {ranks[0]} begins with {', '.join(keys)}"
    )


def explain_gradient(step: int, norm: float) -> str:
    """One line about a gradient that is no number, under a loss that is one."""
    return (
        f"the gradient of step {step} has norm {norm}: no number, though the loss is one. {ADVICE}"
    )


def explain_metrics(step: int, metrics: Mapping[str, float]) -> str:
    """One line about metrics of the last evaluation that are not finite; empty if all are."""
    bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if not bad:
        return ""
    return (
        f"nothing was committed: after the last step, {step}, {', '.join(bad)}; lower"
        " optim.peak_lr or set optim.clip_norm, and look at the validation images"
    )


def usable_loss(loss: Tensor, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The loss [], or where that of any rank is no number, one whose gradient is zeros.

    Collective, and it waits for the device. Gradients of a loss that is no number are none either,
    also when they are multiplied by 0; so the zeros come from another pass, over blank images.
    """
    bad = (~torch.isfinite(loss.detach())).long()
    dist.all_reduce(bad)
    return 0 * forward(torch.zeros_like(images)).sum() if bad.item() else loss


def skipped_in_a_row(before: int, finite: list[bool]) -> int:
    """Steps in a row without a usable loss at the end of `finite`, after `before` such steps."""
    good = [at for at, one in enumerate(finite) if one]
    return len(finite) - 1 - good[-1] if good else before + len(finite)


def _keys(spec: StreamSpec, positions: np.ndarray) -> list[str]:
    dataset = load_dataset(spec.dataset)
    index = load_index(dataset, spec.split)
    found = read_samples(dataset.shard_store(), index, positions, damaged=[])
    return [f"{raw.key} ({raw.shard})" for raw in sorted(found, key=lambda raw: raw.request)]
