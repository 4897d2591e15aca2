"""The named models: Vision Transformers, hybrids and the BiT baseline, as values.

vit_{ti,s,b,l,h,g,G}{8,14,16,32}    g is the giant of arXiv:2106.04560, G its gigantic
r26_vit_s32 r50_vit_b16 ...         hybrids: a Transformer on the feature map of a ResNet
bit_r50x1 bit_r101x1 ...            BiT ResNets
"""

from dataclasses import replace

from vit.config import BiTConfig, Config, ViTConfig

# Table 1 of arXiv:2010.11929 (B, L, H), arXiv:2106.10270 (Ti, S) and arXiv:2106.04560 (g, G).
_SIZES = {
    "ti": ViTConfig(width=192, depth=12, heads=3, mlp_dim=768),
    "s": ViTConfig(width=384, depth=12, heads=6, mlp_dim=1536),
    "b": ViTConfig(width=768, depth=12, heads=12, mlp_dim=3072),
    "l": ViTConfig(width=1024, depth=24, heads=16, mlp_dim=4096),
    "h": ViTConfig(width=1280, depth=32, heads=16, mlp_dim=5120),
    "g": ViTConfig(width=1408, depth=40, heads=16, mlp_dim=6144),
    "G": ViTConfig(width=1664, depth=48, heads=16, mlp_dim=8192),
}

# Patches are 1x1 on the feature map; the last number of a name is their side in image pixels. R50
# at /16 has the blocks of its fourth stage in the third (section 4.1 of arXiv:2010.11929).
_R26, _R50, _R50_AT_16 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 9)
_HYBRIDS = {
    "r26_vit_s32": replace(_SIZES["s"], patch_size=1, stem_blocks=_R26),
    "r26_vit_b32": replace(_SIZES["b"], patch_size=1, stem_blocks=_R26),
    "r50_vit_b16": replace(_SIZES["b"], patch_size=1, stem_blocks=_R50_AT_16),
    "r50_vit_b32": replace(_SIZES["b"], patch_size=1, stem_blocks=_R50),
    "r50_vit_l16": replace(_SIZES["l"], patch_size=1, stem_blocks=_R50_AT_16),
    "r50_vit_l32": replace(_SIZES["l"], patch_size=1, stem_blocks=_R50),
}

_RESNETS = {
    "bit_r50x1": BiTConfig(blocks=(3, 4, 6, 3)),
    "bit_r50x2": BiTConfig(blocks=(3, 4, 6, 3), width_factor=2),
    "bit_r101x1": BiTConfig(blocks=(3, 4, 23, 3)),
    "bit_r152x1": BiTConfig(blocks=(3, 8, 36, 3)),
    "bit_r152x2": BiTConfig(blocks=(3, 8, 36, 3), width_factor=2),
    "bit_r152x4": BiTConfig(blocks=(3, 8, 36, 3), width_factor=4),
}

VARIANTS: dict[str, Config] = {
    **{
        f"vit_{name}{patch_size}": replace(size, patch_size=patch_size)
        for name, size in _SIZES.items()
        for patch_size in (8, 14, 16, 32)
    },
    **_HYBRIDS,
    **_RESNETS,
}
"""Named models at 224 px with 1,000 classes; derive others with `dataclasses.replace`."""
