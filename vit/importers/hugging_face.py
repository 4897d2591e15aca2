"""Tensor names of Hugging Face's ViT, DeiT, DINOv2 and BEiT: those in files, and since
transformers 5 also those of the modules.

The pooler of `ViTModel` is the paper's pre-training layer: linear, then tanh.
"""

from vit.importers.rules import Rule

_TOP = r"(?:vit\.|deit\.|dinov2\.|dinov2_with_registers\.|beit\.|data2vec_vision\.)?"
_FILE = rf"{_TOP}encoder\.layer\.(\d+)"
_MODULE = rf"{_TOP}layers\.(\d+)"
_LEAF = r"\.(weight|bias)"
_TABLE = "relative_position_bias_table"
_BIAS = rf"relative_position_bias\.{_TABLE}"

RULES: tuple[Rule, ...] = (
    Rule(rf"{_TOP}embeddings\.cls_token", r"cls_token"),
    Rule(rf"{_TOP}embeddings\.position_embeddings", r"pos_embed"),
    Rule(rf"{_TOP}embeddings\.patch_embeddings\.projection{_LEAF}", r"patch_embed.proj.\1"),
    Rule(rf"{_TOP}embeddings\.distillation_token", r"dist_token"),
    Rule(rf"{_TOP}embeddings\.register_tokens", r"reg_token"),
    Rule(rf"{_FILE}\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    # BEiT
    Rule(rf"{_FILE}\.lambda_([12])", r"blocks.\1.ls\2.gamma"),
    Rule(rf"{_MODULE}\.lambda_([12])", r"blocks.\1.ls\2.gamma"),
    Rule(rf"{_FILE}\.attention\.attention\.{_BIAS}", rf"blocks.\1.attn.{_TABLE}"),
    Rule(rf"{_MODULE}\.(?:attention\.)?{_BIAS}", rf"blocks.\1.attn.{_TABLE}"),
    Rule(rf"{_TOP}(?:encoder\.)?{_BIAS}", rf"rel_pos_bias.{_TABLE}"),
    Rule(rf"{_TOP}pooler\.layernorm{_LEAF}", r"fc_norm.\1"),
    *(
        Rule(there + _LEAF, rf"blocks.\1.{here}.\2")
        for there, here in (
            (rf"{_FILE}\.attention\.attention\.query", "attn.q"),
            (rf"{_FILE}\.attention\.attention\.key", "attn.k"),
            (rf"{_FILE}\.attention\.attention\.value", "attn.v"),
            (rf"{_FILE}\.attention\.output\.dense", "attn.proj"),
            (rf"{_FILE}\.intermediate\.dense", "mlp.fc1"),
            (rf"{_FILE}\.output\.dense", "mlp.fc2"),
            (rf"{_FILE}\.layernorm_before", "norm1"),
            (rf"{_FILE}\.layernorm_after", "norm2"),
            # DINOv2
            (rf"{_FILE}\.norm1", "norm1"),
            (rf"{_FILE}\.norm2", "norm2"),
            (rf"{_FILE}\.mlp\.fc1", "mlp.fc1"),
            (rf"{_FILE}\.mlp\.fc2", "mlp.fc2"),
            (rf"{_FILE}\.mlp\.weights_in", "mlp.fc1"),
            (rf"{_FILE}\.mlp\.weights_out", "mlp.fc2"),
            (rf"{_FILE}\.attention\.q_proj", "attn.q"),
            (rf"{_FILE}\.attention\.k_proj", "attn.k"),
            (rf"{_FILE}\.attention\.v_proj", "attn.v"),
            (rf"{_FILE}\.attention\.o_proj", "attn.proj"),
            (rf"{_MODULE}\.attention\.q_proj", "attn.q"),
            (rf"{_MODULE}\.attention\.k_proj", "attn.k"),
            (rf"{_MODULE}\.attention\.v_proj", "attn.v"),
            (rf"{_MODULE}\.attention\.o_proj", "attn.proj"),
            (rf"{_MODULE}\.mlp\.fc1", "mlp.fc1"),
            (rf"{_MODULE}\.mlp\.fc2", "mlp.fc2"),
            (rf"{_MODULE}\.layernorm_before", "norm1"),
            (rf"{_MODULE}\.layernorm_after", "norm2"),
        )
    ),
    Rule(rf"{_TOP}layernorm{_LEAF}", r"norm.\1"),
    Rule(rf"{_TOP}pooler\.dense{_LEAF}", r"pre_logits.fc.\1"),
    Rule(rf"classifier{_LEAF}", r"head.\1"),
    Rule(rf"cls_classifier{_LEAF}", r"head.\1"),
    Rule(rf"distillation_classifier{_LEAF}", r"head_dist.\1"),
)
