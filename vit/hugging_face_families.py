"""The families of Vision Transformers in Hugging Face's transformers, and what each represents.

For DINOv3, and for heads of ours on CLIP and on SigLIP's attention pooling, it has no classifier:
of these the backbone is exported, from a model without classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from vit import hugging_face_names as theirs
from vit.config import ViTConfig
from vit.errors import BadModel
from vit.importers.fixes import fit_parts

_PLAIN: dict[str, Any] = {
    "pool": "token", "pos_embed": "learned-1d", "head": "linear", "registers": 0,
    "distilled": False, "fc_norm": False, "rotary": "none", "mlp": "gelu", "norm": "layer",
    "pre_norm": False, "qk_norm": False, "attn_norm": False, "mlp_norm": False,
    "proj_bias": True, "stem_blocks": (),
}  # fmt: skip
"""Fields in which Hugging Face's ViT has no choice. Of the others LayerScale is folded, and missing
biases and positions become zeros."""
_ANY = object()


@dataclass(frozen=True, kw_only=True)
class Family:
    """A class of transformers and what it represents."""

    name: str
    """Its name in messages."""
    model_type: str
    backbone: str
    """Name of the class without a head."""
    classifier: str | None = None
    """Name of the class with a head; None if no head of ours fits it."""
    names: theirs.Names
    differs: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are fixed to another value than in `_PLAIN`, or are free (`_ANY`)."""
    square: bool = False
    """Whether its code takes the grid of its positions for a square."""
    biases: tuple[str, ...] = ("all", "none")
    """Values of `qkv_bias` that it has; for others the missing ones become zeros."""
    describe: Callable[[ViTConfig], dict[str, Any]]
    """Fields of config.json that not all families have."""

    def check(self, config: ViTConfig) -> None:
        """Raise BadModel that names each field for which this class has no place."""
        wanted = {**_PLAIN, **({} if self.classifier else {"num_classes": 0}), **self.differs}
        different = [
            f"{name} {getattr(config, name)!r} (wanted {value!r})"
            for name, value in wanted.items()
            if value is not _ANY and getattr(config, name) != value
        ]
        height, width = config.image_hw
        if self.square and height != width:
            different.append(f"image_size {config.image_size} (wanted a square)")
        if different:
            raise BadModel(
                f"Hugging Face's {self.name} has no place for {', '.join(different)} - perhaps timm"
                " has (--to timm)"
            )

    def fit(self, tensors: dict[str, Tensor], config: ViTConfig) -> None:
        """Rewrite, in place, the parts of the model that this class has not."""
        target = replace(
            config,
            layer_scale=bool(self.differs.get("layer_scale")),
            patch_bias=self.differs.get("patch_bias", True),
            qkv_bias=config.qkv_bias if config.qkv_bias in self.biases else "all",
        )
        fit_parts(tensors, asdict(config), target)


def _bert(config: ViTConfig) -> dict[str, Any]:
    return {"intermediate_size": config.mlp_dim, "qkv_bias": config.qkv_bias != "none"}


def _dinov2(config: ViTConfig) -> dict[str, Any]:
    return {
        "mlp_ratio": _dinov2_ratio(config),
        "use_swiglu_ffn": config.mlp == "swiglu",
        "qkv_bias": config.qkv_bias != "none",
        "use_mask_token": False,
        "layerscale_value": config.layer_scale_init,
        "drop_path_rate": config.drop_path,
    }


def _dinov3(config: ViTConfig) -> dict[str, Any]:
    return {
        "intermediate_size": config.mlp_dim,
        "use_gated_mlp": config.mlp == "swiglu",
        **({"hidden_act": "silu"} if config.mlp == "swiglu" else {}),
        "num_register_tokens": config.registers,
        "rope_theta": config.rotary_temperature,
        "layerscale_value": config.layer_scale_init,
        "query_bias": config.qkv_bias != "none",
        "key_bias": config.qkv_bias == "all",
        "value_bias": config.qkv_bias != "none",
    }


def _beit(config: ViTConfig) -> dict[str, Any]:
    return {
        "intermediate_size": config.mlp_dim,
        "layer_scale_init_value": config.layer_scale_init,
        "use_mean_pooling": config.pool == "gap",
        "use_relative_position_bias": True,
        "drop_path_rate": config.drop_path,
    }


def _tower(config: ViTConfig) -> dict[str, Any]:
    return {"intermediate_size": config.mlp_dim}


VIT = Family(
    name="ViT",
    model_type="vit",
    backbone="ViTModel",
    classifier="ViTForImageClassification",
    names=theirs.BERT.inside("vit."),
    describe=_bert,
)
DEIT = Family(
    name="DeiT",
    model_type="deit",
    backbone="DeiTModel",
    classifier="DeiTForImageClassificationWithTeacher",
    names=replace(
        theirs.BERT.inside("deit."),
        heads={"head": "cls_classifier", "head_dist": "distillation_classifier"},
    ),
    differs={"distilled": True},
    describe=_bert,
)
DINOV2 = Family(
    name="DINOv2",
    model_type="dinov2",
    backbone="Dinov2Model",
    classifier="Dinov2ForImageClassification",
    names=theirs.DINOV2.inside("dinov2."),
    differs={"layer_scale": True, "mlp": _ANY},
    square=True,
    describe=_dinov2,
)
DINOV2_REGISTERS = Family(
    name="DINOv2 with registers",
    model_type="dinov2_with_registers",
    backbone="Dinov2WithRegistersModel",
    classifier="Dinov2WithRegistersForImageClassification",
    names=theirs.DINOV2.inside("dinov2_with_registers."),
    differs={**DINOV2.differs, "registers": _ANY},
    square=True,
    describe=lambda config: _dinov2(config) | {"num_register_tokens": config.registers},
)
BEIT = Family(
    name="BEiT",
    model_type="beit",
    backbone="BeitModel",
    classifier="BeitForImageClassification",
    names=theirs.BEIT.inside("beit."),
    square=True,
    differs={"pos_embed": "relative-bias", "layer_scale": True, "qkv_bias": "no-key"},
    biases=("no-key",),
    describe=_beit,
)
BEIT_MEAN = replace(BEIT, differs={**BEIT.differs, "pool": "gap", "registers": 1, "fc_norm": True})
DINOV3 = Family(
    name="DINOv3",
    model_type="dinov3_vit",
    backbone="DINOv3ViTModel",
    names=theirs.DINOV3,
    differs={
        "pos_embed": "none",
        "rotary": "dinov3",
        "layer_scale": True,
        "registers": _ANY,
        "mlp": _ANY,
    },
    biases=("all", "no-key", "none"),
    describe=_dinov3,
)
SIGLIP = Family(
    name="SigLIP",
    model_type="siglip",
    backbone="SiglipVisionModel",
    classifier="SiglipForImageClassification",
    names=theirs.TOWER.inside("vision_model."),
    differs={"pool": "gap"},
    square=True,
    biases=("all",),
    describe=lambda config: _tower(config) | {"vision_use_head": False},
)
SIGLIP_TOWER = Family(
    name="SigLIP",
    model_type="siglip_vision_model",
    backbone="SiglipVisionModel",
    names=theirs.TOWER,
    differs={"pool": _ANY},
    square=True,
    biases=("all",),
    describe=lambda config: _tower(config) | {"vision_use_head": config.pool == "map"},
)
CLIP = Family(
    name="CLIP",
    model_type="clip_vision_model",
    backbone="CLIPVisionModel",
    names=theirs.TOWER,
    differs={"pre_norm": True, "patch_bias": False},
    square=True,
    biases=("all",),
    describe=_tower,
)


def family_of(config: ViTConfig) -> Family:
    """The nearest family; `check` says what it has not."""
    if config.rotary != "none":
        return DINOV3
    if config.pos_embed == "relative-bias":
        return BEIT if config.pool == "token" else BEIT_MEAN
    if config.pre_norm:
        return CLIP
    if config.distilled:
        return DEIT
    if config.pool != "token":
        return SIGLIP if config.num_classes else SIGLIP_TOWER
    if config.registers:
        return DINOV2_REGISTERS
    # DeiT-III has LayerScale as well, and no position of the class token: a ViT when it is folded.
    like_dinov2 = config.layer_scale and config.pos_embed_prefix
    return DINOV2 if like_dinov2 and _dinov2_ratio(config) else VIT


def _dinov2_ratio(config: ViTConfig) -> int | None:
    """The whole `mlp_ratio` by which DINOv2's code arrives at `mlp_dim`, if there is one."""
    for ratio in range(1, 17):
        wide = config.width * ratio
        gated = (int(wide * 2 / 3) + 7) // 8 * 8
        if config.mlp_dim == (gated if config.mlp == "swiglu" else wide):
            return ratio
    return None
