"""From tokens to logits: attention pooling, the paper's pre-training layer, the linear head."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit.config import ViTConfig
from vit.layers import Mlp, new_parameter, norm_layer


def float32_logits(pooled: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply the classifier's linear layer in at least float32: [B, D] -> [B, num_classes].

    bfloat16 rounds logits near a bias of -10 to steps of 1/16: thousands of classes become equal.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    bias = None if bias is None else bias.to(dtype)
    device = pooled.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return F.linear(pooled.to(dtype), weight.to(dtype), bias)
    return F.linear(pooled.to(dtype), weight.to(dtype), bias)


class Head(nn.Linear):
    """The linear head; its logits are float32 whatever the module's own dtype."""

    def forward(self, input: Tensor) -> Tensor:
        """Classify: [B, D] of any dtype -> float32 [B, num_classes]."""
        return float32_logits(input, self.weight, self.bias)


class AttentionPool(nn.Module):
    """A learned probe attends to all tokens (MAP head, arXiv:2106.04560): [B, T, D] -> [B, D]."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.latent = new_parameter(1, 1, width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = norm_layer(config, width)
        self.mlp = Mlp(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool the tokens: [B, T, D] -> [B, D]."""
        batch, length, width = tokens.shape
        size = width // self.heads
        q = self.q(self.latent.expand(batch, -1, -1)).reshape(batch, 1, self.heads, size)
        kv = self.kv(tokens).reshape(batch, length, 2, self.heads, size)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, T, d]
        pooled = F.scaled_dot_product_attention(q.transpose(1, 2), k, v)  # [B, heads, 1, d]
        pooled = self.proj(pooled.transpose(1, 2).reshape(batch, width))
        return pooled + self.mlp(self.norm(pooled))


class PreLogits(nn.Module):
    """The hidden layer of the pre-training head, linear then tanh: [B, D] -> [B, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, pooled: Tensor) -> Tensor:
        """Apply the layer: [B, D] -> [B, D]."""
        return torch.tanh(self.fc(pooled))
