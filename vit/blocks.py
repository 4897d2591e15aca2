"""The Transformer block: pre-norm attention and MLP, each added to the stream."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vit.config import ViTConfig
from vit.dropout import Draws, DropPath, SampleDropout
from vit.layers import LayerScale, Mlp, SwiGlu, new_parameter, norm_layer
from vit.relative import bias_of_pairs, bias_rows
from vit.rotary import rotate


class Attention(nn.Module):
    """Multi-head self-attention, q, k and v from one matrix: [B, T, D] -> [B, T, D].

    With relative positions every query also attends to an embedding of the distance to each key
    (appendix D.4 of arXiv:2010.11929); the distances are along the token sequence. BEiT's are
    biases for the offset between two patches instead (`vit.relative`).
    """

    rel_pos: nn.Parameter | None
    relative_position_bias_table: nn.Parameter | None  # timm's name
    q_bias: nn.Parameter | None
    v_bias: nn.Parameter | None

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, size = config.width, config.width // config.heads
        self.heads = config.heads
        self.halves = config.rotary == "dinov3"
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias == "all")
        without_key = config.qkv_bias == "no-key"
        for name in ("q_bias", "v_bias"):
            self.register_parameter(name, new_parameter(width) if without_key else None)
        self.q_norm = norm_layer(config, size) if config.qk_norm else nn.Identity()
        self.k_norm = norm_layer(config, size) if config.qk_norm else nn.Identity()
        self.norm = norm_layer(config, width) if config.attn_norm else nn.Identity()
        self.proj = nn.Linear(width, width, bias=config.proj_bias)
        self.proj_drop = SampleDropout(config.dropout)
        relative = config.pos_embed == "relative"
        table = new_parameter(2 * config.num_tokens - 1, size) if relative else None
        self.register_parameter("rel_pos", table)
        biased = config.pos_embed == "relative-bias"
        biases = new_parameter(bias_rows(config), config.heads) if biased else None
        self.register_parameter("relative_position_bias_table", biases)
        self.grid_size, self.num_prefix_tokens = config.grid_size, config.num_prefix_tokens

    def forward(
        self,
        tokens: Tensor,
        keep: int | None = None,
        draws: Draws | None = None,
        rotary: Tensor | None = None,
    ) -> Tensor:
        """Mix the tokens of each image: [B, T, D] -> [B, keep or T, D].

        With `keep` only that many first tokens look at the others and are returned. Dropout takes
        the first layer of `draws`. `rotary` is the table by which queries and keys turn.
        """
        q, k, v = self.queries_keys_values(tokens, keep, rotary)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.logit_bias(q))
        mixed = self.norm(mixed.transpose(1, 2).flatten(2))  # [B, heads, Q, d] -> [B, Q, D]
        return self.proj_drop(self.proj(mixed), draws, 0)

    def queries_keys_values(
        self, tokens: Tensor, keep: int | None = None, rotary: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What attention mixes: [B, T, D] -> [B, heads, keep or T, d], twice [B, heads, T, d]."""
        batch, length, width = tokens.shape
        # All of qkv even with `keep`: a module's weight is whole only in its own forward, under
        # ZeRO 3. For the same reason the biases are added here.
        qkv = self.qkv(tokens)  # [B, T, 3D]
        if self.q_bias is not None and self.v_bias is not None:
            qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = qkv.reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, T, d]
        if keep is not None:
            q = q[:, :, :keep]
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = (rotate(each, rotary, halves=self.halves) for each in (q, k))
        return q, k, v

    def logit_bias(self, q: Tensor) -> Tensor | None:
        """What relative positions add to the logits: [B, h, Q, d] -> [B or 1, h, Q, T], if any."""
        if self.rel_pos is not None:
            return self.relative_bias(q, self.rel_pos)
        table = self.relative_position_bias_table
        if table is None:
            return None
        biases = bias_of_pairs(table.to(q.dtype), self.grid_size, self.num_prefix_tokens)
        return biases[None, :, : q.shape[-2]]

    @staticmethod
    def relative_bias(q: Tensor, table: Tensor) -> Tensor:
        """Logits of each query for each distance: [B, h, Q, d], [2T - 1, d] -> [B, h, Q, T]."""
        length = (table.shape[0] + 1) // 2
        by_distance = q @ table.to(q.dtype).t() * q.shape[-1] ** -0.5  # [B, h, Q, 2T - 1]
        query = torch.arange(q.shape[-2], device=q.device)
        key = torch.arange(length, device=q.device)
        distance = query[:, None] - key[None, :] + length - 1  # [Q, T]
        return by_distance.gather(-1, distance.expand(*q.shape[:2], -1, -1))


class Block(nn.Module):
    """Pre-norm block, figure 1 of arXiv:2010.11929: [B, T, D] -> [B, T, D]."""

    def __init__(self, config: ViTConfig, *, drop_path: float) -> None:
        super().__init__()
        width = config.width
        self.norm1 = norm_layer(config, width)
        self.attn = Attention(config)
        self.ls1 = LayerScale(width) if config.layer_scale else nn.Identity()
        self.norm2 = norm_layer(config, width)
        mlp = Mlp if config.mlp == "gelu" else SwiGlu
        self.mlp = mlp(
            config, dropout=config.dropout, bias=config.proj_bias, normed=config.mlp_norm
        )
        self.ls2 = LayerScale(width) if config.layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        tokens: Tensor,
        keep: int | None = None,
        draws: Draws | None = None,
        rotary: Tensor | None = None,
    ) -> Tensor:
        """One step of the stream: [B, T, D] -> [B, T, D], or its first `keep` tokens.

        `draws` are those of `LAYERS_PER_BLOCK` layers, in the order in which they are taken;
        `rotary` is as in `Attention`.
        """
        mixed = self.ls1(self.attn(self.norm1(tokens), keep, draws, rotary))
        tokens = (tokens if keep is None else tokens[:, :keep]) + self.drop_path(mixed, draws, 1)
        made = self.mlp(self.norm2(tokens), None if draws is None else draws.part(2, 2))
        return tokens + self.drop_path(self.ls2(made), draws, 4)
