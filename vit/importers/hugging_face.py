"""Names of Hugging Face's ViT, as in its files and as in its modules since transformers 5.

The pooler of `ViTModel` is the paper's pre-training layer: linear, then tanh.
"""

from vit.importers.rules import Rule

_FILE = r"(?:vit\.)?encoder\.layer\.(\d+)"
_MODULE = r"(?:vit\.)?layers\.(\d+)"
_LEAF = r"\.(weight|bias)"

RULES: tuple[Rule, ...] = (
    Rule(r"(?:vit\.)?embeddings\.cls_token", r"cls_token"),
    Rule(r"(?:vit\.)?embeddings\.position_embeddings", r"pos_embed"),
    Rule(rf"(?:vit\.)?embeddings\.patch_embeddings\.projection{_LEAF}", r"patch_embed.proj.\1"),
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
    Rule(rf"(?:vit\.)?layernorm{_LEAF}", r"norm.\1"),
    Rule(rf"(?:vit\.)?pooler\.dense{_LEAF}", r"pre_logits.fc.\1"),
    Rule(rf"classifier{_LEAF}", r"head.\1"),
)
