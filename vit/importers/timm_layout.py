"""Tensor names of timm's ViT and Eva, and of the authors' code that they follow.

timm has two names for some parts: Eva's LayerScale is `gamma_1`, and its q, k and v or the two
inner layers of its SwiGLU may be matrices of their own.
"""

from vit.importers.rules import Rule

_BLOCK = r"(blocks\.\d+)"
_LEAF = r"(weight|bias)"

RULES: tuple[Rule, ...] = (
    Rule(r"register_tokens", r"reg_token"),
    Rule(rf"{_BLOCK}\.gamma_([12])", r"\1.ls\2.gamma"),  # also DeiT-III's authors
    Rule(rf"{_BLOCK}\.attn\.([qkv])_proj\.{_LEAF}", r"\1.attn.\2.\3"),
    Rule(rf"{_BLOCK}\.mlp\.w12\.{_LEAF}", r"\1.mlp.fc1.\2"),  # DINOv2's authors
    Rule(rf"{_BLOCK}\.mlp\.w3\.{_LEAF}", r"\1.mlp.fc2.\2"),
    Rule(r"(.+)", r"\1"),
)
