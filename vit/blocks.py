"""The Transformer block: pre-norm attention and MLP, each added to the stream."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit.config import ViTConfig
from vit.dropout import Draws, DropPath, SampleDropout


class Attention(nn.Module):
    """Multi-head self-attention, q, k and v from one matrix: [B, T, D] -> [B, T, D].

    With `relative_tokens` every query also attends to an embedding of the distance to each key
    (appendix D.4 of arXiv:2010.11929); the distances are along the token sequence.
    """

    def __init__(
        self, width: int, heads: int, *, dropout: float = 0.0, relative_tokens: int = 0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.proj_drop = SampleDropout(dropout)
        shape = (2 * relative_tokens - 1, width // heads)
        table = nn.Parameter(torch.empty(*shape)) if relative_tokens else None
        self.register_parameter("rel_pos", table)
        self.rel_pos: nn.Parameter | None

    def forward(
        self, tokens: Tensor, keep: int | None = None, draws: Draws | None = None
    ) -> Tensor:
        """Mix the tokens of each image: [B, T, D] -> [B, keep or T, D].

        With `keep` only that many first tokens look at the others and are returned. Dropout takes
        the first layer of `draws`.
        """
        batch, length, width = tokens.shape
        # All of qkv even so: a module's weight is whole only in its own forward, under ZeRO 3.
        qkv = self.qkv(tokens).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, T, d]
        if keep is not None:
            q = q[:, :, :keep]
        bias = None if self.rel_pos is None else self.relative_bias(q, self.rel_pos)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # [B, heads, Q, d]
        return self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)), draws, 0)

    @staticmethod
    def relative_bias(q: Tensor, table: Tensor) -> Tensor:
        """Logits of each query for each distance: [B, h, Q, d], [2T - 1, d] -> [B, h, Q, T]."""
        length = (table.shape[0] + 1) // 2
        by_distance = q @ table.to(q.dtype).t() * q.shape[-1] ** -0.5  # [B, h, Q, 2T - 1]
        query = torch.arange(q.shape[-2], device=q.device)
        key = torch.arange(length, device=q.device)
        distance = query[:, None] - key[None, :] + length - 1  # [Q, T]
        return by_distance.gather(-1, distance.expand(*q.shape[:2], -1, -1))


class Mlp(nn.Module):
    """Two layers with GELU between them: [..., D] -> [..., D]."""

    def __init__(self, width: int, hidden: int, *, gelu: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU(approximate="tanh" if gelu == "tanh" else "none")
        self.fc2 = nn.Linear(hidden, width)
        self.drop = SampleDropout(dropout)

    def forward(self, tokens: Tensor, draws: Draws | None = None) -> Tensor:
        """Transform each token on its own: [..., D] -> [..., D]."""
        hidden = self.drop(self.act(self.fc1(tokens)), draws, 0)
        return self.drop(self.fc2(hidden), draws, 1)


class Block(nn.Module):
    """Pre-norm block, figure 1 of arXiv:2010.11929: [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ViTConfig, *, drop_path: float) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        relative = config.num_tokens if config.pos_embed == "relative" else 0
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, config.heads, dropout=config.dropout, relative_tokens=relative)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, config.mlp_dim, gelu=config.gelu, dropout=config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, tokens: Tensor, keep: int | None = None, draws: Draws | None = None
    ) -> Tensor:
        """One step of the stream: [B, T, D] -> [B, T, D], or its first `keep` tokens.

        `draws` are those of `LAYERS_PER_BLOCK` layers, in the order in which they are taken.
        """
        mixed = self.attn(self.norm1(tokens), keep, draws)
        tokens = (tokens if keep is None else tokens[:, :keep]) + self.drop_path(mixed, draws, 1)
        made = self.mlp(self.norm2(tokens), None if draws is None else draws.part(2, 2))
        return tokens + self.drop_path(made, draws, 4)
