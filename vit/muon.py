"""Muon: momentum whose matrices are made orthogonal (kellerjordan.github.io/posts/muon).

As `torch.optim.Muon`: five steps of a Newton-Schulz iteration in bfloat16, Nesterov's momentum,
decoupled decay. A step of a matrix of shape [A, B] is scaled by 0.2 sqrt(max(A, B)), so that it is
as large as AdamW's and one rate and one decay suit both (arXiv:2502.16982). Only matrices of the
blocks go by it, q, k and v as the one matrix that they are here; all else goes by torch's AdamW.
"""

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from vit.whole_tensors import Part, WholeTensors

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_EPS = 1e-7


class Muon(WholeTensors):
    """Muon over groups that say in `update` whether their matrices are made orthogonal.

    With ZeRO only matrices that are cut between workers travel: each worker that holds a part gets
    the whole, and makes it orthogonal. So the bits of a step do not depend on the cuts.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps})

    def moments(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The momentum of matrices, and AdamW's two moments of all else."""
        if group["update"] == "orthogonal":
            return ("momentum_buffer",)
        return ("exp_avg", "exp_avg_sq")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # nothing is returned where there is no closure
        """Change every tensor that has a gradient (collective, if the tensors are spread)."""
        assert closure is None
        for group in self.param_groups:
            vectors = [vector for vector in group["params"] if vector.grad is not None]
            if group["update"] != "orthogonal":
                self._step_by_adamw(vectors, group)
                continue
            for vector in vectors:
                self._step_by_matrices(vector, group)

    def _step_by_matrices(self, vector: Tensor, group: dict[str, Any]) -> None:
        momentum = self.state_of(vector, group)["momentum_buffer"]
        gradient = vector.grad
        assert gradient is not None
        momentum.lerp_(gradient, 1 - group["momentum"])
        directions = gradient.lerp(momentum, group["momentum"]).view(-1)
        vector.mul_(1 - group["lr"] * group["weight_decay"])
        weights = vector.view(-1)
        for part in self._parts[vector]:
            own = slice(part.offset, part.offset + part.length)
            whole = self._whole(directions[own], part)
            if part.length:
                change = orthogonal(whole).reshape(-1)[part.start : part.start + part.length]
                weights[own].add_(change, alpha=-(group["lr"] * (0.2 * sqrt(max(part.shape)))))

    def _whole(self, own: Tensor, part: Part) -> Tensor:
        """The matrix that a worker's part belongs to: [A, B] (collective, if it is shared)."""
        if not part.shared:
            return own.view(part.shape)
        rows, columns = part.shape
        whole = own.new_zeros(rows * columns)
        whole[part.start : part.start + part.length] = own
        return self._add_up(whole).view(part.shape)

    def _step_by_adamw(self, vectors: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state_of(vector, group) for vector in vectors]
        beta1, beta2 = group["betas"]
        adamw(
            vectors,
            [vector.grad for vector in vectors if vector.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonal(matrix: Tensor) -> Tensor:
    """Move the singular values of a matrix near 1: [A, B] -> bfloat16 [A, B].

    The polynomial does not converge: they end within about 0.7 and 1.2, which trains as well.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.bfloat16()
    if tall:
        found = found.T
    found = found / found.norm().clamp(min=_EPS)
    for _ in range(_STEPS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found
