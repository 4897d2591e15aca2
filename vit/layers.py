"""Small layers of a block: norms, LayerScale, and the two kinds of MLP."""

import torch
from torch import Tensor, nn

from vit.config import ViTConfig
from vit.dropout import Draws, SampleDropout


def norm_layer(config: ViTConfig, width: int) -> nn.Module:
    """A norm over the last dimension, of the config's kind and epsilon."""
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(width, eps=config.norm_eps)


class LayerScale(nn.Module):
    """A learned factor for each channel (arXiv:2103.17239): [..., D] -> [..., D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = new_parameter(width)

    def forward(self, branch: Tensor) -> Tensor:
        """Scale the output of attention or MLP: [..., D] -> [..., D]."""
        return branch * self.gamma


class QuickGelu(nn.Module):
    """The sigmoid approximation of GELU in OpenAI's CLIP: x * sigmoid(1.702 x)."""

    def forward(self, values: Tensor) -> Tensor:
        """Apply it to each number."""
        return values * torch.sigmoid(1.702 * values)


class Mlp(nn.Module):
    """Two layers with GELU between them: [..., D] -> [..., D]."""

    matrices = 1
    """Matrices stacked in `fc1`."""

    def __init__(
        self,
        config: ViTConfig,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        normed: bool = False,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, self.matrices * config.mlp_dim, bias=bias)
        self.act = self.activation(config)
        self.norm = norm_layer(config, config.mlp_dim) if normed else nn.Identity()
        self.fc2 = nn.Linear(config.mlp_dim, config.width, bias=bias)
        self.drop = SampleDropout(dropout)

    def forward(self, tokens: Tensor, draws: Draws | None = None) -> Tensor:
        """Transform each token on its own: [..., D] -> [..., D]."""
        hidden = self.norm(self.drop(self.activate(self.fc1(tokens)), draws, 0))
        return self.drop(self.fc2(hidden), draws, 1)

    def activation(self, config: ViTConfig) -> nn.Module:
        """The nonlinearity: the form of GELU that the config asks for."""
        if config.gelu == "quick":
            return QuickGelu()
        return nn.GELU(approximate="tanh" if config.gelu == "tanh" else "none")

    def activate(self, made: Tensor) -> Tensor:
        """What `fc2` reads of the output of `fc1`."""
        return self.act(made)


class SwiGlu(Mlp):
    """Three layers (arXiv:2002.05202), two of them in one matrix: [..., D] -> [..., D].

    The first half of `fc1` goes through SiLU and is multiplied with the second.
    """

    matrices = 2

    def activation(self, config: ViTConfig) -> nn.Module:
        """The nonlinearity of the gate."""
        return nn.SiLU()

    def activate(self, made: Tensor) -> Tensor:
        """The gated values: [..., 2M] -> [..., M]."""
        gate, values = made.chunk(2, dim=-1)
        return self.act(gate) * values


def new_parameter(*shape: int) -> nn.Parameter:
    """A parameter without values, which `vit.init` fills."""
    return nn.Parameter(torch.empty(*shape))
