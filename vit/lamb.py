"""LAMB (arXiv:1904.00962): Adam whose change of a kernel is scaled to the kernel's own norm.

As apex's FusedLAMB and timm's Lamb, which DeiT-III trained with: both moments are corrected for
their start at zero; the decay is added to the change, before its norm is taken; a bias, norm, token
or position table has neither decay nor scaling. They also clip the global norm of the gradients;
here `clip_norm` does that, before the step of any optimizer.
"""

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from vit.whole_tensors import WholeTensors


class Lamb(WholeTensors):
    """LAMB over groups that say in `update` whether their tensors are scaled (`"trust"`).

    With ZeRO the sums of squares of all tensors are added over the workers, in one collective per
    group: 8 bytes per tensor.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})

    def moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Those of Adam."""
        return ("exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # nothing is returned where there is no closure
        """Change every tensor that has a gradient (collective, if the tensors are spread)."""
        assert closure is None
        for group in self.param_groups:
            vectors = [vector for vector in group["params"] if vector.grad is not None]
            changes = [self._change(vector, group) for vector in vectors]
            if group["update"] == "trust" and vectors:
                self._scale(vectors, changes)
            for vector, change in zip(vectors, changes, strict=True):
                vector.add_(change, alpha=-group["lr"])

    def _change(self, vector: Tensor, group: dict[str, Any]) -> Tensor:
        """Adam's change of a vector at the rate 1, with decay; the moments go on."""
        state = self.state_of(vector, group)
        state["step"] += 1
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        mean, square, gradient = state["exp_avg"], state["exp_avg_sq"], vector.grad
        assert gradient is not None
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        change = square.sqrt().div_(sqrt(1 - beta2**step)).add_(group["eps"])
        torch.div(mean, change, out=change).div_(1 - beta1**step)
        return change.add_(vector, alpha=group["weight_decay"])

    def _scale(self, vectors: list[Tensor], changes: list[Tensor]) -> None:
        """Give each tensor's change the norm of the tensor, unless one of the two is zero."""
        weights: list[Tensor] = []
        parts: list[Tensor] = []
        numbers: list[int] = []
        for vector, change in zip(vectors, changes, strict=True):
            for part in self._parts[vector]:
                if part.length:
                    own = slice(part.offset, part.offset + part.length)
                    weights.append(vector.view(-1)[own])
                    parts.append(change.view(-1)[own])
                    numbers.append(part.tensor)
        at = torch.tensor(numbers, device=vectors[0].device, dtype=torch.long)
        sums = vectors[0].new_zeros(self._tensors, 2)
        for side, values in enumerate((weights, parts)):
            if values:
                norms = torch.stack([torch.linalg.vector_norm(each) for each in values])
                sums[at, side] = norms.square()
        weight, change_norm = self._add_up(sums)[at].sqrt().unbind(1)
        both = (weight > 0) & (change_norm > 0)
        ratios = torch.where(both, weight / change_norm, 1.0)
        for part, ratio in zip(parts, ratios.unbind(), strict=True):
            part.mul_(ratio)
