"""The sizes of Vision Transformers: width, depth, heads and hidden units, all else at default."""

from vit.config import ViTConfig

# Table 1 of arXiv:2010.11929 (B, L, H), arXiv:2106.10270 (Ti, S) and arXiv:2106.04560 (g, G).
SIZES = {
    "ti": ViTConfig(width=192, depth=12, heads=3, mlp_dim=768),
    "s": ViTConfig(width=384, depth=12, heads=6, mlp_dim=1536),
    "b": ViTConfig(width=768, depth=12, heads=12, mlp_dim=3072),
    "l": ViTConfig(width=1024, depth=24, heads=16, mlp_dim=4096),
    "h": ViTConfig(width=1280, depth=32, heads=16, mlp_dim=5120),
    "g": ViTConfig(width=1408, depth=40, heads=16, mlp_dim=6144),
    "G": ViTConfig(width=1664, depth=48, heads=16, mlp_dim=8192),
}
