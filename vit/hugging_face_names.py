"""Tensor names of Hugging Face's families of Vision Transformers, for `vit.hugging_face_model`.

`vit.importers` reads the same names, and more: those of older files and of other libraries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names of a family's tensors, by those of ours.

    A key is a whole name, or that of a module whose tensors have the same last part in both.
    """

    top: Mapping[str, str]
    """Tensors outside the blocks."""
    block: str
    """What stands before the tensors of block {}."""
    parts: Mapping[str, str]
    """Tensors of a block."""
    gated: Mapping[str, str] = field(default_factory=dict)
    """Those of `parts` that have other names in a SwiGLU."""
    heads: Mapping[str, str] = field(default_factory=lambda: {"head": "classifier"})
    """Tensors outside the backbone."""
    prefix: str = ""
    """What stands before all names of the backbone."""

    def inside(self, prefix: str) -> "Names":
        """The same names within a class that has a head."""
        return replace(self, prefix=prefix)

    def of(self, name: str, *, gated: bool) -> str:
        """The family's name of one of our tensors, after `separate`."""
        if name.startswith("blocks."):
            _, number, part = name.split(".", 2)
            parts = {**self.parts, **self.gated} if gated else self.parts
            return f"{self.prefix}{self.block.format(number)}{_renamed(part, parts)}"
        if name.split(".")[0] in self.heads:
            return _renamed(name, self.heads)
        return self.prefix + _renamed(name, self.top)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """Raises KeyError for a tensor without a name, which a family's check should have refused."""
    if name in names:
        return names[name]
    module, _, leaf = name.rpartition(".")
    return f"{names[module]}.{leaf}"


def separate(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Queries, keys and values as tensors of their own; all other tensors as they are."""
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if module.endswith("attn.qkv"):
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{module.removesuffix('qkv')}{part}.{leaf}", rows
        elif leaf in ("q_bias", "v_bias"):
            yield f"{module}.{leaf[0]}.bias", tensor
        elif module == "attn_pool.q":  # the other two follow under their own name
            yield f"attn_pool.qkv.{leaf}", torch.cat([tensor, tensors[f"attn_pool.kv.{leaf}"]])
        elif module != "attn_pool.kv":
            yield name, tensor


_BERT_TOP = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "reg_token": "embeddings.register_tokens",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_BERT_ATTENTION = {
    "attn.q": "attention.attention.query",
    "attn.k": "attention.attention.key",
    "attn.v": "attention.attention.value",
    "attn.proj": "attention.output.dense",
}
BERT = Names(
    top=_BERT_TOP,
    block="encoder.layer.{}.",
    parts=_BERT_ATTENTION
    | {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
)
_BIAS = "relative_position_bias_table"
BEIT = Names(
    top={**_BERT_TOP, "reg_token": "embeddings.cls_token", "fc_norm": "pooler.layernorm"},
    block="encoder.layer.{}.",
    parts={
        **BERT.parts,
        f"attn.{_BIAS}": f"attention.attention.relative_position_bias.{_BIAS}",
        "ls1.gamma": "lambda_1",
        "ls2.gamma": "lambda_2",
    },
)
"""It always has a class token, which is a register of ours where the head averages the patches."""
_DINO = {
    "norm1": "norm1",
    "norm2": "norm2",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
DINOV2 = Names(
    top=_BERT_TOP,
    block="encoder.layer.{}.",
    parts=_BERT_ATTENTION | _DINO | {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"},
    gated={"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"},
)
DINOV3 = Names(
    top=_BERT_TOP | {"patch_embed.proj": "embeddings.patch_embeddings", "norm": "norm"},
    block="layer.{}.",
    parts=_DINO
    | {
        "attn.q": "attention.q_proj",
        "attn.k": "attention.k_proj",
        "attn.v": "attention.v_proj",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.up_proj",
        "mlp.fc2": "mlp.down_proj",
    },
    gated={"mlp.fc1_g": "mlp.gate_proj", "mlp.fc1_x": "mlp.up_proj"},
)
TOWER = Names(
    top={
        "cls_token": "embeddings.class_embedding",
        "pos_embed": "embeddings.position_embedding.weight",
        "patch_embed.proj": "embeddings.patch_embedding",
        "norm_pre": "pre_layrnorm",  # their spelling
        "norm": "post_layernorm",
        "attn_pool.latent": "head.probe",
        "attn_pool.qkv.weight": "head.attention.in_proj_weight",
        "attn_pool.qkv.bias": "head.attention.in_proj_bias",
        "attn_pool.proj": "head.attention.out_proj",
        "attn_pool.norm": "head.layernorm",
        "attn_pool.mlp.fc1": "head.mlp.fc1",
        "attn_pool.mlp.fc2": "head.mlp.fc2",
    },
    block="encoder.layers.{}.",
    parts={
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.q": "self_attn.q_proj",
        "attn.k": "self_attn.k_proj",
        "attn.v": "self_attn.v_proj",
        "attn.proj": "self_attn.out_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    },
)
"""Of CLIP and SigLIP."""
