"""A loss that is no number: in which step, on which ranks, from which samples."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from storage.dataset import load_dataset
from storage.index import load_index
from storage.objects import open_store
from storage.reader import read_samples
from storage.stream import StreamSpec

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
        f" rank {ranks[0]} begins with {', '.join(keys)}. Nothing of it was saved: lower"
        " optim.peak_lr, set optim.clip_norm or look at these samples, then run it again"
    )


def _gathered(mine: Tensor) -> Tensor:
    """[...] of every rank -> [W, ...]."""
    each = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(each, mine.contiguous())
    return torch.stack(each)


def _keys(spec: StreamSpec, positions: np.ndarray) -> list[str]:
    index = load_index(load_dataset(spec.dataset), spec.split)
    found = read_samples(open_store(spec.dataset), index, positions, damaged=[])
    return [f"{raw.key} ({raw.shard})" for raw in sorted(found, key=lambda raw: raw.request)]
