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
        self.gamma = nn.Parameter(torch.empty(width))

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

    def __init__(
        self,
        config: ViTConfig,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        normed: bool = False,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_dim, bias=bias)
        self.act = gelu(config)
        self.norm = norm_layer(config, config.mlp_dim) if normed else nn.Identity()
        self.fc2 = nn.Linear(config.mlp_dim, config.width, bias=bias)
        self.drop = SampleDropout(dropout)

    def forward(self, tokens: Tensor, draws: Draws | None = None) -> Tensor:
        """Transform each token on its own: [..., D] -> [..., D]."""
        hidden = self.norm(self.drop(self.act(self.fc1(tokens)), draws, 0))
        return self.drop(self.fc2(hidden), draws, 1)


class SwiGlu(nn.Module):
    """Three layers (arXiv:2002.05202), two of them in one matrix: [..., D] -> [..., D].

    The first half of `fc1` goes through SiLU and is multiplied with the second.
    """

    def __init__(
        self,
        config: ViTConfig,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        normed: bool = False,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, 2 * config.mlp_dim, bias=bias)
        self.act = nn.SiLU()
        self.norm = norm_layer(config, config.mlp_dim) if normed else nn.Identity()
        self.fc2 = nn.Linear(config.mlp_dim, config.width, bias=bias)
        self.drop = SampleDropout(dropout)

    def forward(self, tokens: Tensor, draws: Draws | None = None) -> Tensor:
        """Transform each token on its own: [..., D] -> [..., D]."""
        gate, values = self.fc1(tokens).chunk(2, dim=-1)
        hidden = self.norm(self.drop(self.act(gate) * values, draws, 0))
        return self.drop(self.fc2(hidden), draws, 1)


def gelu(config: ViTConfig) -> nn.Module:
    """The form of GELU that the config asks for."""
    if config.gelu == "quick":
        return QuickGelu()
    return nn.GELU(approximate="tanh" if config.gelu == "tanh" else "none")
