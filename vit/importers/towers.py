"""Tensor names of Hugging Face's image towers: CLIP, SigLIP and SigLIP2 with square images, DINOv3.

The text tower of a file and the projection beside the towers are left out.
"""

from torch import Tensor

from vit.importers.rules import Rule


def token(embedding: Tensor) -> Tensor:
    """Reshape a class token: [D] -> [1, 1, D]."""
    return embedding[None, None]


def table(embedding: Tensor) -> Tensor:
    """Reshape a position table: [T, D] -> [1, T, D]."""
    return embedding[None]


_LEAF = r"\.(weight|bias)"
_CLIP = r"encoder\.layers\.(\d+)"
_DINOV3 = r"(?:model\.)?layer\.(\d+)"


def _in_block(there: str, parts: tuple[tuple[str, str], ...]) -> tuple[Rule, ...]:
    return tuple(Rule(rf"{there}\.{name}{_LEAF}", rf"blocks.\1.{here}.\2") for name, here in parts)


CLIP: tuple[Rule, ...] = (
    Rule(r"embeddings\.class_embedding", r"cls_token", token),
    Rule(r"embeddings\.position_embedding\.weight", r"pos_embed", table),
    Rule(rf"embeddings\.patch_embedding{_LEAF}", r"patch_embed.proj.\1"),
    Rule(rf"pre_layrnorm{_LEAF}", r"norm_pre.\1"),  # their spelling
    *_in_block(
        _CLIP,
        (
            (r"self_attn\.q_proj", "attn.q"),
            (r"self_attn\.k_proj", "attn.k"),
            (r"self_attn\.v_proj", "attn.v"),
            (r"self_attn\.out_proj", "attn.proj"),
            (r"layer_norm1", "norm1"),
            (r"layer_norm2", "norm2"),
            (r"mlp\.fc1", "mlp.fc1"),
            (r"mlp\.fc2", "mlp.fc2"),
        ),
    ),
    Rule(rf"post_layernorm{_LEAF}", r"norm.\1"),
    # SigLIP's attention pooling
    Rule(r"head\.probe", r"attn_pool.latent"),
    Rule(r"head\.attention\.in_proj_(weight|bias)", r"attn_pool.qkv.\1"),
    Rule(rf"head\.attention\.out_proj{_LEAF}", r"attn_pool.proj.\1"),
    Rule(rf"head\.layernorm{_LEAF}", r"attn_pool.norm.\1"),
    Rule(rf"head\.mlp\.fc([12]){_LEAF}", r"attn_pool.mlp.fc\1.\2"),
    Rule(rf"classifier{_LEAF}", r"head.\1"),
)

DINOV3: tuple[Rule, ...] = (
    Rule(r"embeddings\.cls_token", r"cls_token"),
    Rule(r"embeddings\.register_tokens", r"reg_token"),
    Rule(rf"embeddings\.patch_embeddings{_LEAF}", r"patch_embed.proj.\1"),
    Rule(rf"{_DINOV3}\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    *_in_block(
        _DINOV3,
        (
            (r"attention\.q_proj", "attn.q"),
            (r"attention\.k_proj", "attn.k"),
            (r"attention\.v_proj", "attn.v"),
            (r"attention\.o_proj", "attn.proj"),
            (r"norm1", "norm1"),
            (r"norm2", "norm2"),
            (r"mlp\.gate_proj", "mlp.fc1_g"),
            (r"mlp\.up_proj", "mlp.fc1_x"),  # fc1 where there is no gate
            (r"mlp\.down_proj", "mlp.fc2"),
        ),
    ),
    Rule(rf"norm{_LEAF}", r"norm.\1"),
)
