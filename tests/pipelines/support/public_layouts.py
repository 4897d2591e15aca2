"""The layouts that people download most, as their libraries write them, with random weights.

Each model has the width, the names and the files of its library, and two blocks.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tests.pipelines.support.foreign_pixels import Pixels, timm_pixels, transformers_pixels
from tests.vit.support.peers import import_timm, randomize

HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OPENAI = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_RESCALE = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
SQUARE = {"height": 224, "width": 224}
_WHOLE = _RESCALE | {"image_processor_type": "ViTImageProcessor", "size": SQUARE}
_CUT = {"do_center_crop": True, "crop_size": 224}
# The published processor cuts 224 of 256, and transformers resizes the position table at each call.
_DINOV2 = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 592},
    "do_center_crop": True,
    "crop_size": {"height": 518, "width": 518},
}
BILINEAR, BICUBIC = {"resample": 2}, {"resample": 3}

TIMM = (
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_base_patch16_384",
    "vit_base_patch32_224",
    "vit_large_patch16_224",
    "vit_base_patch8_224",
    "vit_base_patch16_224_miil",
    "deit_small_patch16_224",
    "deit_base_distilled_patch16_224",
    "deit3_base_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_large_patch14_clip_quickgelu_224",
    "vit_base_patch16_siglip_224",
    "vit_so400m_patch14_siglip_384",
    "vit_small_patch14_dinov2",
    "vit_base_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_dinov3",
    "beit_base_patch16_224",
    "eva02_base_patch14_448",
    "eva02_large_patch14_448",
)


@dataclass(frozen=True)
class Layout:
    """A folder as a library writes it, and what the library computes."""

    name: str
    library: str
    model: nn.Module
    pixels: Pixels
    """Bytes of an image -> float32 [1, 3, H, W], as the library's preprocessing makes them."""
    output: Callable[[Tensor], Tensor]
    """Those pixels -> logits [1, C], or pooled features of a model without a head."""
    mean: list[float]
    std: list[float]


def timm_layout(name: str, folder: Path) -> Layout:
    """Write timm's folder of a model of this name."""
    timm = import_timm()
    model = timm.create_model(name, depth=2).eval()
    randomize(model)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    said = timm.data.resolve_model_data_config(model)
    return Layout(name, "timm", model, timm_pixels(said), model, list(said["mean"]),
                  list(said["std"]))  # fmt: skip


def layout(name: str, folder: Path) -> Layout:
    """Write the folder of a name in `NAMES`."""
    return (timm_layout if name in TIMM else transformers_layout)(name, folder)


def _vit(transformers: Any, **more: Any) -> Any:
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(num_hidden_layers=2, num_labels=1000, **more)
    )


def _beit(transformers: Any) -> Any:
    described = {"num_hidden_layers": 2, "num_labels": 1000, "use_relative_position_bias": True}
    return transformers.BeitForImageClassification(transformers.BeitConfig(**described))


def _deit_distilled(transformers: Any) -> Any:
    described = transformers.DeiTConfig(num_hidden_layers=2, num_labels=1000)
    return transformers.DeiTForImageClassificationWithTeacher(described)


def _clip(transformers: Any, **vision: Any) -> Any:
    text = {"num_hidden_layers": 1, "vocab_size": 1000}
    vision |= {"num_hidden_layers": 2}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))


def _siglip(transformers: Any, **vision: Any) -> Any:
    text = {"num_hidden_layers": 1, "vocab_size": 1000}
    vision |= {"num_hidden_layers": 2}
    return transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config=vision)
    )


def _encoder(kind: str, transformers: Any, **more: Any) -> Any:
    described = getattr(transformers, f"{kind}Config")(num_hidden_layers=2, **more)
    return getattr(transformers, f"{kind}Model")(described)


# Sizes and preprocessing as in the repositories' config.json and preprocessor_config.json.
_TRANSFORMERS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "google/vit-base-patch16-224": (_vit, _WHOLE | HALF | BILINEAR),
    "google/vit-base-patch16-224-in21k": (
        partial(_encoder, "ViT"),
        HALF | BILINEAR | {"do_normalize": True, "do_resize": True, "size": 224},
    ),
    "facebook/deit-base-patch16-224": (
        _vit,
        _RESCALE | _CUT | IMAGENET | BICUBIC
        | {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256},
    ),
    "facebook/deit-base-distilled-patch16-224": (
        _deit_distilled,
        _RESCALE | _CUT | IMAGENET | BICUBIC
        | {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256},
    ),
    "microsoft/beit-base-patch16-224": (_beit, _WHOLE | HALF | BILINEAR),
    "facebook/dinov2-base": (
        partial(_encoder, "Dinov2", image_size=518, patch_size=14),
        _RESCALE | _DINOV2 | IMAGENET | BICUBIC,
    ),
    "facebook/dinov2-with-registers-base": (
        partial(_encoder, "Dinov2WithRegisters", image_size=518, patch_size=14),
        _RESCALE | _DINOV2 | IMAGENET | BICUBIC,
    ),
    "facebook/dinov3-vits16-pretrain-lvd1689m": (
        partial(_encoder, "DINOv3ViT", hidden_size=384, num_attention_heads=6,
                intermediate_size=1536, num_register_tokens=4),
        _WHOLE | IMAGENET | BILINEAR,  # its own class does the same and needs torchvision
    ),
    "openai/clip-vit-base-patch32": (
        _clip,
        _RESCALE | _CUT | OPENAI | BICUBIC
        | {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224},
    ),
    "openai/clip-vit-large-patch14": (
        partial(_clip, hidden_size=1024, num_attention_heads=16, intermediate_size=4096,
                patch_size=14),
        _RESCALE | _CUT | OPENAI | BICUBIC
        | {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224},
    ),
    "google/siglip-base-patch16-224": (
        _siglip,
        _RESCALE | HALF | BICUBIC
        | {"image_processor_type": "SiglipImageProcessor", "size": SQUARE},
    ),
}  # fmt: skip
NAMES = (*TIMM, *_TRANSFORMERS)


def transformers_layout(name: str, folder: Path) -> Layout:
    """Write the folder of a model of the Hugging Face Hub."""
    import transformers

    make, processor = _TRANSFORMERS[name]
    model: Any = make(transformers).eval()
    randomize(model)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    vision: Any = getattr(model, "vision_model", model)

    def output(pixels: Tensor) -> Tensor:
        found = vision(pixel_values=pixels)
        return found.logits if "logits" in found else found.pooler_output

    mean, std = processor["image_mean"], processor["image_std"]
    return Layout(name, "transformers", vision, transformers_pixels(folder), output, mean, std)
