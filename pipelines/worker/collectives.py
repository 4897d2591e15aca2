"""Values that all ranks of a group agree on; every rank must call each of these together."""

import torch
import torch.distributed as dist
from torch import Tensor

_TEXT_BYTES = 1024


def agreed_text(own: str, device: torch.device) -> str:
    """The text of the first rank that has one, or none: the same on every rank (collective)."""
    data = torch.zeros(_TEXT_BYTES, dtype=torch.uint8)
    found = own.encode()[:_TEXT_BYTES]
    data[: len(found)] = torch.tensor(list(found), dtype=torch.uint8)
    every = _gathered(data.to(device)).cpu()  # [W, bytes]
    said = every[every.any(dim=1)]
    return bytes(said[0][said[0] > 0].tolist()).decode(errors="replace") if len(said) else ""


def _gathered(mine: Tensor) -> Tensor:
    """[...] of every rank -> [W, ...]."""
    each = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(each, mine.contiguous())
    return torch.stack(each)


def of_first_rank(value: int, device: torch.device) -> int:
    """What rank 0 has, on every rank (collective)."""
    number = torch.tensor(value, device=device)
    dist.broadcast(number, 0)
    return int(number)
