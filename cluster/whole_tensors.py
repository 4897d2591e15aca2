"""Tell an optimizer whose step looks at whole tensors what this worker holds of them.

LAMB needs the norm of each tensor. ZeRO gives it vectors instead, cut without regard to tensors.
The optimizer is plain torch (`vit`): it gets the parts, and a function that adds up over workers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from cluster.partitions import (
    inner_optimizer,
    is_replicated,
    local_part,
    master_tensors,
    shape_of,
    trained,
)

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


class Part(NamedTuple):
    """Elements of one tensor in a vector that this worker's optimizer steps."""

    tensor: int
    """Number of the tensor, in the order of the network's parameters that are trained."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    start: int
    """First element of the part in the flattened tensor."""
    offset: int
    """Place of that element in the vector."""
    length: int
    """Number of elements; 0 where other workers hold the whole tensor between them."""
    shared: bool
    """Whether several workers hold parts of the tensor."""


@runtime_checkable
class SeesTensors(Protocol):
    """An optimizer whose step looks at whole tensors."""

    def moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Names of the states that it keeps for each weight of a parameter group."""
        ...

    def spread(
        self,
        parts: Mapping[Tensor, Sequence[Part]],
        *,
        tensors: int,
        add_up: Callable[[Tensor], Tensor],
    ) -> None:
        """Take the parts of each vector, the number of tensors, and a sum over the workers."""
        ...


def spread_optimizer(engine: "DeepSpeedEngine") -> None:
    """Tell the engine's optimizer what this worker holds, if it asks for tensors (collective).

    At level 0 every worker holds all, and there is nothing to say.
    """
    inner = inner_optimizer(engine)
    if not isinstance(inner, SeesTensors) or is_replicated(engine):
        return

    def add_up(tensor: Tensor) -> Tensor:
        total = tensor.to(engine.device, copy=True)  # offloaded ones are on the host
        dist.all_reduce(total)
        return total.to(tensor.device)

    parts = parts_of(engine)
    inner.spread(parts, tensors=sum(1 for _ in trained(engine)), add_up=add_up)


def parts_of(engine: "DeepSpeedEngine") -> dict[Tensor, list[Part]]:
    """What lies in each of this worker's vectors (collective).

    A tensor that several workers hold is in the list of each worker, of the same vector.
    """
    masters = master_tensors(engine)
    by_memory = {each.untyped_storage().data_ptr(): i for i, each in enumerate(masters)}
    shapes = [shape_of(parameter) for _, parameter in trained(engine)]
    mine: list[tuple[int, int, int, int] | None] = []  # vector, start, offset, length
    for _, parameter in trained(engine):
        found = local_part(engine, parameter, None)
        if found is None:
            mine.append(None)
            continue
        start, values = found
        vector = by_memory[values.untyped_storage().data_ptr()]
        offset = int(values.storage_offset() - masters[vector].storage_offset())
        mine.append((vector, start, offset, len(values)))
    held = torch.tensor([int(each is not None) for each in mine], device=engine.device)
    dist.all_reduce(held)
    vectors = torch.tensor([-1 if each is None else each[0] for each in mine], device=engine.device)
    dist.all_reduce(vectors, dist.ReduceOp.MAX)
    parts: dict[Tensor, list[Part]] = {master: [] for master in masters}
    for number, (own, holders, at) in enumerate(
        zip(mine, held.tolist(), vectors.tolist(), strict=True)
    ):
        if own is None and holders < 2:
            continue
        _, start, offset, length = own or (at, 0, 0, 0)
        part = Part(number, shapes[number], start, offset, length, shared=holders > 1)
        parts[masters[at]].append(part)
    return parts
