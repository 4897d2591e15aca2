"""Batches on their way to the device: the next one is copied while a step is computed."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.worker.background import Background

Columns = dict[str, Tensor]

ON_DEVICE = ("image", "label", "mix")
"""Columns that the network needs. The others stay in host memory."""
BUFFERS = 2
"""Batches in page-locked memory: one is copied to the device while the other is filled."""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """How long a step waited for its batch."""

    host_seconds: float
    """How long the host waited."""
    asked: torch.cuda.Event | None = None
    """On a GPU, the end of the work that the device had been given before."""
    arrived: torch.cuda.Event | None = None
    """On a GPU, the end of the batch's copy to the device."""

    def seconds(self) -> float:
        """Seconds for which the device had nothing to do for want of the batch.

        The host runs ahead of a GPU. If the GPU was still busy while the host waited, no time was
        lost, so there the events count. Reading them waits until the batch has arrived.
        """
        if self.asked is None or self.arrived is None:
            return self.host_seconds
        self.asked.synchronize()
        self.arrived.synchronize()
        return max(0.0, self.asked.elapsed_time(self.arrived) / 1000)


def _tensors(columns: Mapping[str, np.ndarray]) -> Columns:
    """Copies: Ray's arrays are read-only, which a tensor cannot be."""
    return {name: torch.from_numpy(column.copy()) for name, column in columns.items()}


class DeviceBatches(Iterator[tuple[Columns, Wait]]):
    """The batches of a stream as tensors, with the `ON_DEVICE` columns on the device.

    On a GPU a thread takes the next batch from the stream, copies it into page-locked memory and
    from there to the device, on a CUDA stream of its own, while the step before is computed. On a
    CPU nothing has to be copied, and Ray Data reads ahead by itself.
    """

    def __init__(
        self,
        batches: Iterator[Mapping[str, np.ndarray]],
        device: torch.device,
        *,
        ahead: bool | None = None,
    ) -> None:
        """Begin with the first batch.

        Args:
            batches: columns [b, ...] of each batch.
            device: of the network.
            ahead: take the next batch on a thread; None: on a GPU.
        """
        self._batches, self._device = batches, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffers: list[Columns] = [{} for _ in range(BUFFERS)]
        self._copied: list[torch.cuda.Event | None] = [None] * BUFFERS
        self._ahead = self._stream is not None if ahead is None else ahead
        self._next = Background(self._fetch) if self._ahead else None

    def __next__(self) -> tuple[Columns, Wait]:
        """The next batch, and how long it was waited for. Raises what the stream raises."""
        began = time.perf_counter()
        asked = None
        if self._stream is not None:
            asked = torch.cuda.Event(enable_timing=True)
            asked.record(torch.cuda.current_stream(self._device))
        columns, arrived = self._fetch() if self._next is None else self._next.result()
        if columns is None:
            raise StopIteration
        if self._ahead:
            self._next = Background(self._fetch)
        if arrived is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(arrived)
            for name in columns.keys() & set(ON_DEVICE):
                columns[name].record_stream(computing)  # its memory is not given away before
        seconds = time.perf_counter() - began
        return columns, Wait(host_seconds=seconds, asked=asked, arrived=arrived)

    def _fetch(self) -> tuple[Columns | None, torch.cuda.Event | None]:
        """The next batch and its arrival; no batch at the end of the stream."""
        batch = next(self._batches, None)
        if batch is None:
            return None, None
        if self._stream is None:
            return _tensors(batch), None
        moved = {name: batch[name] for name in ON_DEVICE if name in batch}
        on_device, arrived = self._send(moved, self._stream)
        kept = {name: column for name, column in batch.items() if name not in moved}
        return _tensors(kept) | on_device, arrived

    def _send(
        self, columns: Mapping[str, np.ndarray], stream: torch.cuda.Stream
    ) -> tuple[Columns, torch.cuda.Event]:
        """Copy columns by way of page-locked memory, which is used again two batches later."""
        buffers, copied = self._buffers.pop(0), self._copied.pop(0)
        if copied is not None:
            copied.synchronize()
        sent: Columns = {}
        with torch.cuda.stream(stream):
            for name, column in columns.items():
                buffer = buffers.get(name)
                if buffer is None or buffer.shape != column.shape:
                    buffer = torch.from_numpy(np.empty_like(column)).pin_memory()
                    buffers[name] = buffer
                np.copyto(buffer.numpy(), column)
                sent[name] = buffer.to(self._device, non_blocking=True)
            arrived = torch.cuda.Event(enable_timing=True)
            arrived.record(stream)
        self._buffers.append(buffers)
        self._copied.append(arrived)
        return sent, arrived
