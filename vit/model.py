"""The Vision Transformer. Modules and tensors have timm's names, so its state dicts load as is."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vit.blocks import Block
from vit.config import ViTConfig
from vit.cost import Cost, cost_of
from vit.dropout import LAYERS_PER_BLOCK, Draws, SampleDropout, drops, layer_draws
from vit.embed import PatchEmbed, TokenEmbed
from vit.heads import AttentionPool, Head, PreLogits
from vit.layers import norm_layer


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
        self.patch_embed = PatchEmbed(config)
        self.make_tokens(config)
        self.pos_drop = SampleDropout(config.dropout)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        if config.drop_path_constant:
            rates = [config.drop_path] * config.depth
        self.norm_pre = norm_layer(config, width) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, drop_path=rate) for rate in rates)
        norm = norm_layer(config, width)
        self.norm = nn.Identity() if config.fc_norm else norm
        self.attn_pool = AttentionPool(config) if config.pool == "map" else None
        self.fc_norm = norm if config.fc_norm else nn.Identity()
        self.pre_logits = PreLogits(width) if config.head == "mlp" else nn.Identity()
        self.head = Head(width, config.num_classes) if config.num_classes else nn.Identity()
        second = config.distilled and config.num_classes
        self.head_dist = Head(width, config.num_classes) if second else None

    def forward(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Classify: [B, C, H, W] -> [B, num_classes].

        If the head reads only class tokens, the last block computes only those. The logits
        are the same, for a sixteenth less work in a model of 12 blocks.

        Args:
            images: normalised.
            keys: int64 [B] from `sample_keys`, which decide what dropout and stochastic depth drop
                while training. None takes random ones from torch's generator.
        """
        keep = self.config.num_class_tokens or None
        return self.forward_head(self._tokens(images, keep, keys))

    def forward_features(self, images: Tensor) -> Tensor:
        """All tokens after the last block and norm: [B, C, H, W] -> [B, P + h*w, D].

        Raises ValueError for images of another size than the config's.
        """
        return self._tokens(images, None, None)

    def _tokens(self, images: Tensor, keep: int | None, keys: Tensor | None) -> Tensor:
        """The tokens after the last block and norm, or the first `keep` of them."""
        draws = self.draws(images, keys)
        return self.run_blocks(self.embed(images, draws), keep, draws)

    def run_blocks(
        self, tokens: Tensor, keep: int | None = None, draws: Draws | None = None
    ) -> Tensor:
        """All blocks and the norm behind them: [B, T, D] -> [B, keep or T, D].

        Args:
            tokens: from `embed`.
            keep: compute only that many first tokens in the last block.
            draws: the random numbers of this forward pass, if anything is dropped.
        """
        for i, block in enumerate(self.blocks, start=1):
            kept = keep if i == len(self.blocks) else None
            first = 1 + (i - 1) * LAYERS_PER_BLOCK
            own = None if draws is None else draws.part(first, LAYERS_PER_BLOCK)
            if self.grad_checkpointing and self.training:
                # No random state to keep: a block draws nothing, its masks follow from `own`.
                tokens = checkpoint(
                    block,
                    tokens,
                    kept,
                    own,
                    self.rotary_table,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            else:
                tokens = block(tokens, kept, own, self.rotary_table)
        return self.norm(tokens)

    def embed(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        """The tokens that enter the first block: [B, C, H, W] -> [B, P + h*w, D].

        Raises ValueError for images of another size than the config's.
        """
        return self.embed_patches(self.cut(images), draws)

    def cut(self, images: Tensor) -> Tensor:
        """Each patch by itself, without its position: [B, C, H, W] -> [B, h*w, D]; as `embed`."""
        if images.shape[-2:] != self.config.image_hw:
            found, wanted = tuple(images.shape[-2:]), self.config.image_hw
            raise ValueError(f"wanted images of {wanted} pixels, found {found}")
        return self.patch_embed(images)

    def embed_patches(self, patches: Tensor, draws: Draws | None = None) -> Tensor:
        """Add positions and the tokens in front: [B, h*w, D] -> [B, P + h*w, D]."""
        return self.norm_pre(self.pos_drop(self.add_tokens(patches), draws, 0))

    def draws(self, images: Tensor, keys: Tensor | None) -> Draws | None:
        """Random numbers for dropout and stochastic depth; None if this pass drops nothing."""
        if not (self.training and drops(self.config)):
            return None
        if keys is None:
            keys = torch.randint(1 << 62, (len(images),), device=images.device)
        config = self.config
        elements = config.num_tokens * max(config.width, config.mlp_dim) if config.dropout else 0
        layers = 1 + LAYERS_PER_BLOCK * config.depth
        return layer_draws(keys, layers=layers, elements=elements)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify: [B, T, D] -> float32 [B, num_classes], or [B, D] with `pre_logits`."""
        if self.head_dist is not None and not pre_logits:
            return (self.head(tokens[:, 0]) + self.head_dist(tokens[:, 1])) / 2
        pooled = self.pre_logits(self.fc_norm(self.pool(tokens)))
        return pooled if pre_logits else self.head(pooled)

    def pool(self, tokens: Tensor) -> Tensor:
        """Reduce the tokens to one vector per image: [B, P + L, D] -> [B, D]."""
        if self.attn_pool is not None:
            return self.attn_pool(tokens)
        if self.config.pool == "token":
            return tokens[:, : self.config.num_class_tokens].mean(dim=1)
        return tokens[:, self.num_prefix_tokens :].mean(dim=1)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def cost(self) -> Cost:
        """Parameters and multiply-adds of this model."""
        return cost_of(self, self.config)

    @property
    def num_layers(self) -> int:
        """Layers for layer-wise decay: the embedding, each block, and what follows them."""
        return self.config.depth + 2

    def layer_of(self, name: str) -> int:
        """The layer in [0, num_layers) that parameter `name` belongs to."""
        if name.startswith("blocks."):
            return 1 + int(name.split(".")[1])
        stem = ("patch_embed.", "pos_embed", "cls_token", "dist_token", "reg_token", "norm_pre.")
        return 0 if name.startswith(stem) else self.num_layers - 1
