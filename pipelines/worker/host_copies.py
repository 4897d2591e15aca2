"""Copies of a worker's pieces in host memory, for a thread that writes them while training goes on.

From a GPU they go into page-locked memory, which is kept for the next state: several times as fast
as into fresh pages, and the host need not wait. Whether all values are finite is computed where the
values are: a single thread of the host would need seconds for a gigabyte.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from storage.errors import BadInput
from storage.pieces import Piece


class HostCopies:
    """Float32 copies of pieces, made now or, from a GPU, as soon as it comes to them."""

    def __init__(self, pieces: Iterable[Piece], buffers: dict[str, Tensor]) -> None:
        """Queue the copies.

        Args:
            pieces: (name, shape, start, values) each.
            buffers: page-locked memory of the copies before, which must be done with; filled here.
        """
        self._pieces: list[Piece] = []
        self._from_gpu: list[bool] = []
        self._done: torch.cuda.Event | None = None
        flags: list[Tensor] = []
        for name, shape, start, values in pieces:
            own = values.detach()
            self._pieces.append((name, shape, start, _to_host(f"{name}:{start}", own, buffers)))
            self._from_gpu.append(own.is_cuda)
            if own.is_cuda:
                flags.append(torch.isfinite(own).all())
        if flags:
            self._finite = _to_host("finite", torch.stack(flags), buffers, torch.bool)  # [pieces]
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(flags[0].device))

    def finite(self, step: int) -> list[Piece]:
        """The copied pieces, after waiting for the device.

        Args:
            step: of the state, for the message.

        Raises:
            BadInput: a piece holds NaN or an infinite number.
        """
        found: list[bool] = []
        if self._done is not None:
            self._done.synchronize()
            found = self._finite.tolist()
        of_gpu = iter(found)
        # The best weights so far are in host memory already, also where the others are not.
        for (name, _, _, values), from_gpu in zip(self._pieces, self._from_gpu, strict=True):
            if not (next(of_gpu) if from_gpu else torch.isfinite(values).all()):
                raise BadInput(
                    f"{name} holds values that are not finite after step {step}, and the state"
                    " before is the last good one; lower optim.peak_lr or set optim.clip_norm"
                )
        return self._pieces


def _to_host(
    key: str, values: Tensor, buffers: dict[str, Tensor], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Copy values to host memory; a GPU does it in its turn."""
    if not values.is_cuda:
        return values.to(dtype, copy=True)
    buffer = buffers.get(key)
    if buffer is None or buffer.shape != values.shape:
        buffer = torch.empty(values.shape, dtype=dtype, pin_memory=True)
        buffers[key] = buffer
    return buffer.copy_(values, non_blocking=True)
