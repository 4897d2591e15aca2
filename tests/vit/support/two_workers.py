"""Two workers, as threads, that step tensors lying behind each other and cut anywhere."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from threading import Barrier
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vit.whole_tensors import WholeTensors

Make = Callable[[list[nn.Parameter]], WholeTensors]
"""Make the optimizer of one group of tensors."""


class Piece(NamedTuple):
    tensor: int
    shape: tuple[int, ...]
    start: int
    offset: int
    length: int
    shared: bool


def by_one(
    make: Make, shapes: Sequence[tuple[int, ...]], values: Tensor, gradients: Tensor
) -> Tensor:
    """The numbers after a step per row of gradients: values [n], gradients [steps, n] -> [n]."""
    sizes = [prod(shape) for shape in shapes]

    def shaped(numbers: Tensor) -> list[Tensor]:
        return [
            part.view(shape).clone()
            for part, shape in zip(numbers.split(sizes), shapes, strict=True)
        ]

    tensors = [nn.Parameter(each) for each in shaped(values)]
    optimizer = make(tensors)
    for row in gradients:
        for tensor, gradient in zip(tensors, shaped(row), strict=True):
            tensor.grad = gradient
        optimizer.step()
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def by_two(
    make: Make, shapes: Sequence[tuple[int, ...]], values: Tensor, gradients: Tensor, *, cut: int
) -> Tensor:
    """The same by two workers, the first of which holds the first `cut` numbers."""
    meet, sent = Barrier(2, timeout=30), [torch.empty(0)] * 2

    def worker(rank: int) -> Tensor:
        def add_up(own: Tensor) -> Tensor:
            sent[rank] = own
            meet.wait()
            total = sent[0] + sent[1]
            meet.wait()
            return total

        low, high = ((0, cut), (cut, len(values)))[rank]
        vector = nn.Parameter(values[low:high].clone())
        optimizer = make([vector])
        pieces = pieces_of(shapes, low, high, cut)
        optimizer.spread({vector: pieces}, tensors=len(shapes), add_up=add_up)
        for row in gradients:
            vector.grad = row[low:high].clone()
            optimizer.step()
        return vector.detach()

    with ThreadPoolExecutor(2) as pool:
        return torch.cat(list(pool.map(worker, range(2))))


def pieces_of(shapes: Sequence[tuple[int, ...]], low: int, high: int, cut: int) -> list[Piece]:
    pieces: list[Piece] = []
    first = 0
    for number, shape in enumerate(shapes):
        last = first + prod(shape)
        begin, end = max(first, low), min(last, high)
        if begin < end:
            shared = first < cut < last
            pieces.append(Piece(number, shape, begin - first, begin - low, end - begin, shared))
        first = last
    return pieces
