"""Dropout and stochastic depth whose masks belong to the sample, not to the batch it is in.

    sample_keys   (seed, step, epoch, position) -> a key for each sample, made by the training loop
    layer_draws   -> two numbers for each sample and layer, once per forward pass
    masks         an element is kept if factor * code(element) + offset < limit, modulo 2^32

So however a batch is cut, by worker counts or micro-batches, a sample meets the same masks, and a
block that is computed again meets them again. It is integer arithmetic: a CPU and a GPU get the
same bits, and nobody waits for a device. The last line is multiply-shift hashing (Dietzfelbinger,
"Universal hashing and k-wise independent random variables via integer arithmetic without primes",
1996), which makes any two elements of a mask independent. It was taken instead of Philox because,
without a kernel of our own, each operation is a pass over memory: this is two.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vit.config import Config, ViTConfig

LAYERS_PER_BLOCK = 5
"""Attention's output, its path, the MLP's hidden units, its output, its path."""
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as int64
_LOW = (1 << 32) - 1
_HALF = 1 << 31


def drops(config: Config) -> bool:
    """Whether a model draws masks while it trains, and so wants a key for each sample."""
    return isinstance(config, ViTConfig) and (config.dropout > 0 or config.drop_path > 0)


def sample_keys(*, seed: int, step: int, epoch: Tensor, index: Tensor) -> Tensor:
    """A key for each sample of a batch: int64 [B], int64 [B] -> int64 [B].

    Args:
        seed: of the stage.
        step: optimizer steps done before this one.
        epoch: which time the sample is seen.
        index: its position in the dataset's split.
    """
    unsigned = seed % (1 << 64)
    key = torch.full_like(index, unsigned - (1 << 64) if unsigned >> 63 else unsigned)
    for part in (torch.full_like(index, step), epoch, index):
        key = _mix64(key + _GOLDEN * (part + 1))
    return key


class Draws(NamedTuple):
    """The random numbers of one forward pass, from which every mask follows."""

    codes: Tensor
    """int32 [n]: a number for each element of a sample, the same for all samples and layers."""
    factors: Tensor
    """int32 [B, layers], odd."""
    offsets: Tensor
    """int32 [B, layers]."""

    def part(self, first: int, layers: int) -> "Draws":
        """Those of some consecutive layers."""
        some = slice(first, first + layers)
        return Draws(self.codes, self.factors[:, some], self.offsets[:, some])

    def kept(self, layer: int, elements: int, rate: float) -> Tensor:
        """Which elements of each sample are not dropped: bool [B, elements]."""
        at = slice(layer, layer + 1)
        values = torch.addcmul(self.offsets[:, at], self.codes[:elements], self.factors[:, at])
        return values < _limit(rate)

    def kept_samples(self, layer: int, rate: float) -> Tensor:
        """Which samples are not dropped: bool [B]."""
        return self.offsets[:, layer] < _limit(rate)


def layer_draws(keys: Tensor, *, layers: int, elements: int) -> Draws:
    """Spread the keys of samples over the layers of a model: int64 [B] -> draws.

    Args:
        keys: from `sample_keys`.
        layers: that draw masks.
        elements: most elements of one sample in such a layer.
    """
    mixed = spread(keys, layers)  # [B, layers]
    return Draws(
        codes=_codes(elements, keys.device),
        factors=(mixed >> 32).to(torch.int32) | 1,
        offsets=((mixed & _LOW) - _HALF).to(torch.int32),
    )


def spread(keys: Tensor, count: int) -> Tensor:
    """So many numbers from each key: int64 [B] -> int64 [B, count], all bits random."""
    steps = torch.arange(1, count + 1, device=keys.device)
    return _mix64(keys[:, None] + _GOLDEN * steps)


class SampleDropout(nn.Module):
    """Dropout: zero some elements of each sample while training, scale the others up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: Tensor, draws: Draws | None, layer: int) -> Tensor:
        """[B, ...] -> [B, ...]; `layer` is its place among those of `draws`."""
        if not self.training or self.rate == 0.0:
            return values
        assert draws is not None, "dropout while training wants the draws of a forward pass"
        kept = draws.kept(layer, values[0].numel(), self.rate).view(values.shape)
        return _Masked.apply(values, kept, 1.0 / (1.0 - self.rate))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The rate, in `print(model)`."""
        return f"rate={self.rate}"


class DropPath(nn.Module):
    """Stochastic depth: drop a sample's whole branch, scale the kept ones (arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor, draws: Draws | None, layer: int) -> Tensor:
        """Zero some samples of [B, ...] while training; the mean stays."""
        if not self.training or self.rate == 0.0:
            return branch
        assert draws is not None, "drop path while training wants the draws of a forward pass"
        kept = draws.kept_samples(layer, self.rate).to(branch.dtype).div_(1.0 - self.rate)  # [B]
        return branch * kept.view(-1, *(1,) * (branch.ndim - 1))

    def extra_repr(self) -> str:
        """The rate, in `print(model)`."""
        return f"rate={self.rate}"


class _Masked(torch.autograd.Function):
    """values * kept * scale in one pass, which keeps a byte an element for the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return torch.ops.aten.native_dropout_backward(values, kept, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(gradient, kept, ctx.scale), None, None


def _limit(rate: float) -> int:
    """Of uniform int32 numbers, those below it are a share of 1 - rate."""
    return min(round((1.0 - rate) * (1 << 32)) - _HALF, _HALF - 1)


def _codes(count: int, device: torch.device) -> Tensor:
    """MurmurHash3's finaliser, which permutes 32-bit numbers, of 1 to count: int32 [count]."""
    x = torch.arange(1, count + 1, device=device)
    x = (x ^ (x >> 16)) * 0x85EBCA6B & _LOW
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & _LOW
    return ((x ^ (x >> 16)) - _HALF).to(torch.int32)


def _mix64(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64: every bit depends on every bit."""
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros coming in: torch has no unsigned shift."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
