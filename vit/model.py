"""The Vision Transformer with timm's names, and `build_model`, which makes every model here.

A model is laid out on the meta device, given memory, filled with NaN and only then initialised, so
that a forgotten tensor cannot hide. Initialisation draws from a generator of its own: every worker
builds the same weights and nobody's random state moves.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.utils.checkpoint import checkpoint

from vit.blocks import Block
from vit.config import Config, ViTConfig
from vit.embed import PatchEmbed, TokenEmbed, sincos_table
from vit.heads import AttentionPool, PreLogits


def build_model(config: Config, *, seed: int = 0, device: Literal["cpu", "meta"] = "cpu") -> "ViT":
    """Build `config`'s model in float32; `device="meta"` gives shapes without memory."""
    with torch.device("meta"):
        model = ViT(config)
    if device == "meta":
        return model
    model.to_empty(device="cpu")
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.fill_(math.nan)
        model.init_weights(torch.Generator().manual_seed(seed))
    forgotten = [name for name, tensor in tensors.items() if tensor.isnan().any()]
    assert not forgotten, f"init_weights left NaN in {forgotten}"
    return model


class ViT(TokenEmbed):
    """Vision Transformer (arXiv:2010.11929): images [B, C, H, W] -> logits [B, num_classes]."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.grid_size = config.grid_size
        self.num_prefix_tokens = config.num_prefix_tokens
        self.num_features = config.width
        self.grad_checkpointing = False

        width = config.width
        self.patch_embed = PatchEmbed(config.in_channels, config.patch_size, width)
        self.make_tokens(config)
        self.pos_drop = nn.Dropout(config.dropout)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config, drop_path=rate) for rate in rates)
        norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.norm = nn.Identity() if config.fc_norm else norm
        self.attn_pool = AttentionPool(config) if config.pool == "map" else None
        self.fc_norm = norm if config.fc_norm else nn.Identity()
        self.pre_logits = PreLogits(width) if config.head == "mlp" else nn.Identity()
        self.head = _linear_or_identity(width, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify: [B, C, H, W] -> [B, num_classes]."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """All tokens after the last block and norm: [B, C, H, W] -> [B, P + h*w, D].

        Raises ValueError for images of another size than the config's.
        """
        if images.shape[-2:] != self.config.image_hw:
            found, wanted = tuple(images.shape[-2:]), self.config.image_hw
            raise ValueError(f"images are {found} pixels, the model wants {wanted}")
        tokens = self.pos_drop(self.add_tokens(self.patch_embed(images)))
        for block in self.blocks:
            if self.grad_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.norm(tokens)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify: [B, T, D] -> [B, num_classes], or [B, D] with `pre_logits`."""
        pooled = self.pre_logits(self.fc_norm(self.pool(tokens)))
        return pooled if pre_logits else self.head(pooled)

    def pool(self, tokens: Tensor) -> Tensor:
        """One vector an image: [B, P + L, D] -> [B, D]."""
        if self.attn_pool is not None:
            return self.attn_pool(tokens)
        if self.config.pool == "token":
            return tokens[:, 0]
        return tokens[:, self.num_prefix_tokens :].mean(dim=1)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @property
    def num_layers(self) -> int:
        """Layers for layer-wise decay: the embedding, each block, and what follows them."""
        return self.config.depth + 2

    def layer_of(self, name: str) -> int:
        """The layer in [0, num_layers) that parameter `name` belongs to."""
        if name.startswith("blocks."):
            return 1 + int(name.split(".")[1])
        stem = ("patch_embed.", "pos_embed", "cls_token", "reg_token")
        return 0 if name.startswith(stem) else self.num_layers - 1

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise as the reference does; a tensor without a rule here would stay NaN."""
        for name, tensor in self.named_parameters():
            init_tensor_(name, tensor, self.config, generator)
        if self.pos_table is not None:
            self.pos_table.copy_(sincos_table(self.grid_size, self.config.width))


def init_tensor_(name: str, tensor: Tensor, config: ViTConfig, generator: torch.Generator) -> None:
    """Fill one parameter of a ViT by its name, after the reference (Flax) code."""
    *owners, leaf = name.split(".")
    owner = owners[-1] if owners else ""
    if owner in ("norm", "norm1", "norm2", "fc_norm"):
        init.constant_(tensor, 1.0 if leaf == "weight" else 0.0)
    elif name == "head.weight":
        init.zeros_(tensor)
    elif name == "head.bias":
        init.constant_(tensor, config.head_bias_init)
    elif leaf == "bias":
        mlp = owner in ("fc1", "fc2")
        init.normal_(tensor, std=1e-6, generator=generator) if mlp else init.zeros_(tensor)
    elif owner in ("qkv", "kv"):
        # One Xavier matrix each for q, k, v: the fused shape would have another fan.
        for part in tensor.split(config.width):
            init.xavier_uniform_(part, generator=generator)
    elif owner in ("q", "fc1", "fc2") or (owner == "proj" and "patch_embed" not in owners):
        init.xavier_uniform_(tensor, generator=generator)
    elif owner in ("fc", "proj"):
        lecun_normal_(tensor, generator)
    elif leaf == "latent":
        init.xavier_uniform_(tensor[0], generator=generator)
    elif leaf in ("pos_embed", "pos_embed_y", "pos_embed_x", "rel_pos"):
        init.normal_(tensor, std=0.02, generator=generator)
    elif leaf == "reg_token":
        init.normal_(tensor, std=1e-6, generator=generator)  # as arXiv:2309.16588 does
    elif leaf == "cls_token":
        init.zeros_(tensor)


def lecun_normal_(tensor: Tensor, generator: torch.Generator) -> None:
    """Flax's default kernel: normal cut at two sigma, variance 1 / fan_in after the cut."""
    fan_in = tensor[0].numel()
    std = fan_in**-0.5 / 0.87962566103423978
    init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std, generator=generator)


def _linear_or_identity(width: int, num_classes: int) -> nn.Module:
    return nn.Linear(width, num_classes) if num_classes else nn.Identity()
