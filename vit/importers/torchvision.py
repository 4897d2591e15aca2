"""Tensor names of torchvision's ViT; the MLP is `linear_1` in published files, `0` in modules."""

from vit.importers.rules import Rule

_LAYER = r"encoder\.layers\.encoder_layer_(\d+)"
_LEAF = r"\.(weight|bias)"

RULES: tuple[Rule, ...] = (
    Rule(r"class_token", r"cls_token"),
    Rule(r"encoder\.pos_embedding", r"pos_embed"),
    Rule(rf"conv_proj{_LEAF}", r"patch_embed.proj.\1"),
    Rule(rf"{_LAYER}\.ln_([12]){_LEAF}", r"blocks.\1.norm\2.\3"),
    Rule(rf"{_LAYER}\.self_attention\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
    Rule(rf"{_LAYER}\.self_attention\.out_proj{_LEAF}", r"blocks.\1.attn.proj.\2"),
    Rule(rf"{_LAYER}\.mlp\.(?:0|linear_1){_LEAF}", r"blocks.\1.mlp.fc1.\2"),
    Rule(rf"{_LAYER}\.mlp\.(?:3|linear_2){_LEAF}", r"blocks.\1.mlp.fc2.\2"),
    Rule(rf"encoder\.ln{_LEAF}", r"norm.\1"),
    Rule(rf"heads\.pre_logits{_LEAF}", r"pre_logits.fc.\1"),
    Rule(rf"heads\.head{_LEAF}", r"head.\1"),
)
