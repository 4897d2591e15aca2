"""The named models: Vision Transformers, hybrids, the BiT baseline and later models, as values.

vit_{ti,s,b,l,h,g,G}{8,14,16,32}    g is the giant of arXiv:2106.04560, G its gigantic
r26_vit_s32 r50_vit_b16 ...         hybrids: a Transformer on the feature map of a ResNet
bit_r50x1 bit_r101x1 ...            BiT ResNets
clip_b16 siglip2_b16 ...            later models, by their checkpoints' names
"""

from dataclasses import replace

from vit.config import BiTConfig, Config
from vit.later_variants import LATER
from vit.sizes import SIZES

# Patches are 1x1 on the feature map; the last number of a name is their side in image pixels. R50
# at /16 has the blocks of its fourth stage in the third (section 4.1 of arXiv:2010.11929).
_R26, _R50, _R50_AT_16 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 9)
_HYBRIDS = {
    "r26_vit_s32": replace(SIZES["s"], patch_size=1, stem_blocks=_R26),
    "r26_vit_b32": replace(SIZES["b"], patch_size=1, stem_blocks=_R26),
    "r50_vit_b16": replace(SIZES["b"], patch_size=1, stem_blocks=_R50_AT_16),
    "r50_vit_b32": replace(SIZES["b"], patch_size=1, stem_blocks=_R50),
    "r50_vit_l16": replace(SIZES["l"], patch_size=1, stem_blocks=_R50_AT_16),
    "r50_vit_l32": replace(SIZES["l"], patch_size=1, stem_blocks=_R50),
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
        for name, size in SIZES.items()
        for patch_size in (8, 14, 16, 32)
    },
    **_HYBRIDS,
    **_RESNETS,
    **LATER,
}
"""Named models at 224 px with 1,000 classes; derive others with `dataclasses.replace`."""
