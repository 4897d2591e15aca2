"""The Vision Transformer. Modules and tensors have timm's names, so its state dicts load as is."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vit.blocks import Block
from vit.config import ViTConfig
from vit.cost import Cost, cost_of
from vit.embed import PatchEmbed, TokenEmbed
from vit.heads import AttentionPool, Head, PreLogits


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
        self.pos_drop = nn.Dropout(config.dropout)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config, drop_path=rate) for rate in rates)
        norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.norm = nn.Identity() if config.fc_norm else norm
        self.attn_pool = AttentionPool(config) if config.pool == "map" else None
        self.fc_norm = norm if config.fc_norm else nn.Identity()
        self.pre_logits = PreLogits(width) if config.head == "mlp" else nn.Identity()
        self.head = Head(width, config.num_classes) if config.num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Classify: [B, C, H, W] -> [B, num_classes].

        If the head reads only the class token, the last block computes only that one. The logits
        are the same, for a sixteenth less work in a model of 12 blocks.
        """
        return self.forward_head(self._tokens(images, 1 if self.config.pool == "token" else None))

    def forward_features(self, images: Tensor) -> Tensor:
        """All tokens after the last block and norm: [B, C, H, W] -> [B, P + h*w, D].

        Raises ValueError for images of another size than the config's.
        """
        return self._tokens(images, None)

    def _tokens(self, images: Tensor, keep: int | None) -> Tensor:
        """The tokens after the last block and norm, or the first `keep` of them."""
        if images.shape[-2:] != self.config.image_hw:
            found, wanted = tuple(images.shape[-2:]), self.config.image_hw
            raise ValueError(f"wanted images of {wanted} pixels, found {found}")
        tokens = self.pos_drop(self.add_tokens(self.patch_embed(images)))
        for i, block in enumerate(self.blocks, start=1):
            kept = keep if i == len(self.blocks) else None
            if self.grad_checkpointing and self.training:
                tokens = checkpoint(block, tokens, kept, use_reentrant=False)
            else:
                tokens = block(tokens, kept)
        return self.norm(tokens)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify: [B, T, D] -> float32 [B, num_classes], or [B, D] with `pre_logits`."""
        pooled = self.pre_logits(self.fc_norm(self.pool(tokens)))
        return pooled if pre_logits else self.head(pooled)

    def pool(self, tokens: Tensor) -> Tensor:
        """Reduce the tokens to one vector per image: [B, P + L, D] -> [B, D]."""
        if self.attn_pool is not None:
            return self.attn_pool(tokens)
        if self.config.pool == "token":
            return tokens[:, 0]
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
        stem = ("patch_embed.", "pos_embed", "cls_token", "reg_token")
        return 0 if name.startswith(stem) else self.num_layers - 1
