"""Which patches of a sample are hidden: by its key, the same on every device and worker.

The numbers are those of `vit.dropout`: integer arithmetic, without a random state.
"""

import torch
from torch import Tensor

from vit.dropout import spread

_AS_MASK, _AS_OTHER = 0.8, 0.1
"""Appendix B.1.2 of arXiv:2010.11929: of the patches to predict, these shares are replaced by the
mask token and by another patch; the rest is kept."""
_UNIT = 1 << 24
_MASK_TOKEN = -1


def patch_order(keys: Tensor, patches: int) -> Tensor:
    """The patches of each sample in random order: int64 [B] -> int64 [B, L]."""
    return spread(keys, patches).argsort(dim=1, stable=True)


def replacements(keys: Tensor, order: Tensor, hidden: int) -> Tensor:
    """Which patch stands in the place of each: int64 [B, L]; -1 is the mask token.

    Args:
        keys: int64 [B].
        order: from `patch_order`, [B, L].
        hidden: patches to predict, the first ones of `order`.
    """
    batch, patches = order.shape
    numbers = spread(keys, patches + 2 * hidden)[:, patches:]  # those after the order's
    kind, choice = (each >> 40 & (_UNIT - 1) for each in numbers.chunk(2, dim=1))  # [B, hidden]
    chosen = order[:, :hidden]
    other = (chosen + 1 + choice % max(patches - 1, 1)) % patches  # never itself
    as_mask, as_other = round(_AS_MASK * _UNIT), round((_AS_MASK + _AS_OTHER) * _UNIT)
    kept_or_other = torch.where(kind < as_other, other, chosen)
    source = torch.where(kind < as_mask, _MASK_TOKEN, kept_or_other)
    own = torch.arange(patches, device=order.device).expand(batch, -1)
    return own.scatter(1, chosen, source)


def take(values: Tensor, rows: Tensor) -> Tensor:
    """Some rows of each sample: [B, L, D], int64 [B, n] -> [B, n, D]."""
    return values.gather(1, rows[:, :, None].expand(-1, -1, values.shape[-1]))
