"""Tensor names in npz files of vision_transformer and big_vision, with hybrids and MAP heads.

There are three versions of the layout: the position table was in a module of its own, then in the
encoder, then at the top level, where it lost the class token's row. big_vision numbers sublayers by
kind, the older code by position. Kernels are [in, out], convolutions [h, w, in, out], attention is
[D, heads, d] for q, k and v and [heads, d, D] for the output.
"""

from torch import Tensor

from vit.importers.rules import Rule, counted_from_one


def dense(kernel: Tensor) -> Tensor:
    """Transpose a dense kernel: [in, out] -> [out, in]."""
    return kernel.T


def conv(kernel: Tensor) -> Tensor:
    """Transpose a convolution: [h, w, in, out] -> [out, in, h, w]."""
    return kernel.permute(3, 2, 0, 1)


def split_heads(kernel: Tensor) -> Tensor:
    """Reshape a query, key or value kernel: [D, heads, d] -> [heads * d, D]."""
    return kernel.flatten(1).T


def join_heads(kernel: Tensor) -> Tensor:
    """Reshape attention's output kernel: [heads, d, D] -> [D, heads * d]."""
    return kernel.flatten(0, 1).T


def flat(tensor: Tensor) -> Tensor:
    """Flatten a bias [heads, d], or an old GroupNorm's [1, 1, 1, C], to [n]."""
    return tensor.flatten()


def _attention(there: str, here: str) -> tuple[Rule, ...]:
    return (
        *(
            rule
            for word in ("query", "key", "value")
            for rule in (
                Rule(rf"{there}/{word}/kernel", rf"{here}.{word[0]}.weight", split_heads),
                Rule(rf"{there}/{word}/bias", rf"{here}.{word[0]}.bias", flat),
            )
        ),
        Rule(rf"{there}/out/kernel", rf"{here}.proj.weight", join_heads),
        Rule(rf"{there}/out/bias", rf"{here}.proj.bias"),
    )


def _dense(there: str, here: str) -> tuple[Rule, ...]:
    return (
        Rule(rf"{there}/kernel", rf"{here}.weight", dense),
        Rule(rf"{there}/bias", rf"{here}.bias"),
    )


def _norm(there: str, here: str) -> tuple[Rule, ...]:
    return (
        Rule(rf"{there}/scale", rf"{here}.weight", flat),
        Rule(rf"{there}/bias", rf"{here}.bias", flat),
    )


_BLOCK = r"Transformer/encoderblock_(\d+)"
_POOL = r"(?:MAPHead_0/)?"  # some versions of big_vision inline this module
_UNIT = r"block(\d+)/unit(\d+)"
_HERE = r"patch_embed.backbone.stages.{}.blocks.{}"

RULES: tuple[Rule, ...] = (
    Rule(r"cls", r"cls_token"),
    Rule(r"(?:Transformer/(?:posembed_input/)?)?pos_embedding", r"pos_embed"),
    Rule(r"embedding/kernel", r"patch_embed.proj.weight", conv),
    Rule(r"embedding/bias", r"patch_embed.proj.bias"),
    *_norm(rf"{_BLOCK}/LayerNorm_0", r"blocks.\1.norm1"),
    *_attention(rf"{_BLOCK}/MultiHeadDotProductAttention_[01]", r"blocks.\1.attn"),
    *_norm(rf"{_BLOCK}/LayerNorm_[12]", r"blocks.\1.norm2"),
    *_dense(rf"{_BLOCK}/MlpBlock_[03]/Dense_0", r"blocks.\1.mlp.fc1"),
    *_dense(rf"{_BLOCK}/MlpBlock_[03]/Dense_1", r"blocks.\1.mlp.fc2"),
    *_norm(r"Transformer/encoder_norm", r"norm"),
    Rule(rf"{_POOL}probe", r"attn_pool.latent"),
    *_attention(rf"{_POOL}MultiHeadDotProductAttention_0", r"attn_pool"),
    *_norm(rf"{_POOL}LayerNorm_0", r"attn_pool.norm"),
    *_dense(rf"{_POOL}MlpBlock_0/Dense_0", r"attn_pool.mlp.fc1"),
    *_dense(rf"{_POOL}MlpBlock_0/Dense_1", r"attn_pool.mlp.fc2"),
    *_dense(r"pre_logits", r"pre_logits.fc"),
    *_dense(r"head", r"head"),
    # Hybrids
    Rule(r"conv_root/kernel", r"patch_embed.backbone.stem.conv.weight", conv),
    *_norm(r"gn_root", r"patch_embed.backbone.stem.norm"),
    Rule(rf"{_UNIT}/conv([123])/kernel", counted_from_one(rf"{_HERE}.conv\3.weight"), conv),
    Rule(rf"{_UNIT}/gn([123])/scale", counted_from_one(rf"{_HERE}.norm\3.weight"), flat),
    Rule(rf"{_UNIT}/gn([123])/bias", counted_from_one(rf"{_HERE}.norm\3.bias"), flat),
    Rule(rf"{_UNIT}/conv_proj/kernel", counted_from_one(rf"{_HERE}.downsample.conv.weight"), conv),
    Rule(rf"{_UNIT}/gn_proj/scale", counted_from_one(rf"{_HERE}.downsample.norm.weight"), flat),
    Rule(rf"{_UNIT}/gn_proj/bias", counted_from_one(rf"{_HERE}.downsample.norm.bias"), flat),
)
