"""What optimizers have in common whose step looks at whole tensors, not at one number at a time.

ZeRO lays the tensors of a group behind each other in one vector and cuts it between the workers. So
a worker steps vectors, in which lie some tensors and pieces of others. A `Part` says which elements
of which tensor lie where in a vector, and `spread` gives the optimizer all parts of its worker.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Part(Protocol):
    """Elements of one tensor that lie in a vector, one behind the other."""

    @property
    def tensor(self) -> int:
        """Number of the tensor, the same on every worker."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        ...

    @property
    def start(self) -> int:
        """First element of the part in the flattened tensor."""
        ...

    @property
    def offset(self) -> int:
        """Its place in the vector."""
        ...

    @property
    def length(self) -> int:
        """Number of elements; 0 where other workers hold the whole tensor between them."""
        ...

    @property
    def shared(self) -> bool:
        """Whether several workers hold parts of the tensor."""
        ...


class _Whole(NamedTuple):
    """A tensor that this worker holds as a whole."""

    tensor: int
    shape: tuple[int, ...]
    length: int
    start: int = 0
    offset: int = 0
    shared: bool = False


class WholeTensors(torch.optim.Optimizer):
    """An optimizer over vectors that knows which tensors lie in them.

    Before `spread` each vector is a tensor, and this worker holds all of them.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)
        every = [vector for group in self.param_groups for vector in group["params"]]
        self._parts: Mapping[Tensor, Sequence[Part]] = {
            vector: (_Whole(number, tuple(vector.shape), vector.numel()),)
            for number, vector in enumerate(every)
        }
        self._tensors = len(every)
        self._add_up: Callable[[Tensor], Tensor] = _alone

    def spread(
        self,
        parts: Mapping[Tensor, Sequence[Part]],
        *,
        tensors: int,
        add_up: Callable[[Tensor], Tensor],
    ) -> None:
        """Say what this worker holds, once its vectors are those that ZeRO has made.

        Args:
            parts: of each vector, in an order in which the shared tensors are the same on every
                worker.
            tensors: number of all tensors.
            add_up: returns the sum of a tensor over the workers (collective).
        """
        self._parts, self._tensors, self._add_up = dict(parts), tensors, add_up

    def moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Names of the states kept for each weight of a group, which begin as zeros."""
        raise NotImplementedError

    def state_of(self, vector: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The states of a vector, made before its first step if nobody has made them."""
        state = self.state[vector]
        if not state:
            state.update({kind: torch.zeros_like(vector) for kind in self.moments(group)})
            state["step"] = torch.tensor(0.0)
        return state


def _alone(tensor: Tensor) -> Tensor:
    return tensor
