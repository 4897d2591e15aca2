"""Tensor names of mmpretrain's VisionTransformer, without the prefix `backbone.`.

The classifier is outside the backbone (`head.layers.head`) and is left out.
"""

from vit.importers.rules import Rule

_LAYER = r"layers\.(\d+)"
_LEAF = r"\.(weight|bias)"

RULES: tuple[Rule, ...] = (
    Rule(r"(cls_token|pos_embed)", r"\1"),
    Rule(rf"patch_embed\.projection{_LEAF}", r"patch_embed.proj.\1"),
    Rule(rf"{_LAYER}\.(?:ln|norm)([12]){_LEAF}", r"blocks.\1.norm\2.\3"),
    Rule(rf"{_LAYER}\.attn\.(qkv|proj){_LEAF}", r"blocks.\1.attn.\2.\3"),
    Rule(rf"{_LAYER}\.ffn\.layers\.0\.0{_LEAF}", r"blocks.\1.mlp.fc1.\2"),
    Rule(rf"{_LAYER}\.ffn\.layers\.1{_LEAF}", r"blocks.\1.mlp.fc2.\2"),
    Rule(rf"(?:ln1|norm1){_LEAF}", r"norm.\1"),
)
