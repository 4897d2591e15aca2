"""Export weights as a timm folder, a Hugging Face folder, ONNX or a torch.export program.

All of them expect pixels in [-1, 1] like the models here. The folders of timm and Hugging Face also
state how an image is cut: `preprocessing`, which should be that of the evaluation.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vit.build import build_model
from vit.config import Config, ViTConfig
from vit.errors import BadModel
from vit.importers.fixes import add_query_key_value_biases, fit_parts
from vit.preprocessing import Preprocessing
from vit.surgery import adapt_state_dict, check_state_dict
from vit.timm_model import timm_arguments, timm_tensors

_CENTER = Preprocessing()
_HUGGING_FACE_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_HUGGING_FACE_GELU = {"exact": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}
_HUGGING_FACE_TOP = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj.weight": "vit.embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "vit.embeddings.patch_embeddings.projection.bias",
    "norm.weight": "vit.layernorm.weight",
    "norm.bias": "vit.layernorm.bias",
    "head.weight": "classifier.weight",
    "head.bias": "classifier.bias",
}
_HUGGING_FACE = ViTConfig()
_HUGGING_FACE_FIXED = (
    "pool", "pos_embed", "head", "registers", "distilled", "fc_norm", "rotary",
    "mlp", "norm", "pre_norm", "qk_norm", "attn_norm", "mlp_norm", "proj_bias", "stem_blocks",
)  # fmt: skip
"""Fields in which Hugging Face's ViT has no choice."""


def export_timm(
    weights: Mapping[str, Tensor],
    config: Config,
    folder: Path,
    *,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing = _CENTER,
) -> None:
    """Write `model.safetensors` and `config.json` for `timm.create_model("local-dir:FOLDER")`.

    Raises BadModel if timm's models cannot represent the config, or if the number of class names is
    wrong.
    """
    check_state_dict(weights, config)
    _check_names(class_names, config)
    architecture, arguments = timm_arguments(config)
    height, width = config.image_hw
    described = {
        "architecture": architecture,
        "num_classes": config.num_classes,
        "norm_eps": getattr(config, "norm_eps", None),  # timm ignores it; our importer reads it
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [config.in_channels, height, width],
            **preprocessing.timm(min(height, width)),
            "num_classes": config.num_classes,
            "first_conv": "patch_embed.proj" if isinstance(config, ViTConfig) else "stem.conv",
            "classifier": "head" if isinstance(config, ViTConfig) else "head.fc",
        },
        **({"label_names": list(class_names)} if class_names else {}),
    }
    _write_folder(folder, timm_tensors(weights, config), {"config.json": described})


def export_hugging_face(
    weights: Mapping[str, Tensor],
    config: Config,
    folder: Path,
    *,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing = _CENTER,
) -> None:
    """Write a folder for `AutoModelForImageClassification.from_pretrained(FOLDER)`.

    Raises BadModel if Hugging Face's ViT cannot represent the config, or if the number of class
    names is wrong.
    """
    check_state_dict(weights, config)
    config = _hugging_face_has(config)
    weights, _ = adapt_state_dict(weights, config, replace(config, pos_embed_prefix=True))
    fit_parts(weights, asdict(config), replace(config, layer_scale=False, patch_bias=True))
    qkv_bias = config.qkv_bias != "none"
    if config.qkv_bias == "no-key":
        add_query_key_value_biases(weights)
    _check_names(class_names, config)
    names = list(class_names or (f"LABEL_{i}" for i in range(config.num_classes)))
    size = list(config.image_hw)
    described = {
        "architectures": ["ViTForImageClassification" if config.num_classes else "ViTModel"],
        "model_type": "vit",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_dim,
        "image_size": size[0] if size[0] == size[1] else size,
        "patch_size": config.patch_size,
        "num_channels": config.in_channels,
        "hidden_act": _HUGGING_FACE_GELU[config.gelu],
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": qkv_bias,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "dtype": "float32",
    }
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        tensors.update(_hugging_face_names(name, tensor))
    processor = preprocessing.hugging_face(*config.image_hw)
    files = {"config.json": described, "preprocessor_config.json": processor}
    _write_folder(folder, tensors, files)


def export_onnx(weights: Mapping[str, Tensor], config: Config, path: Path) -> float:
    """Write an ONNX file `images` [B, C, H, W] -> `logits` [B, num_classes] for any B.

    Returns the largest difference between the logits of onnxruntime and torch. Needs the packages
    onnx, onnxscript and onnxruntime.
    """
    import onnxruntime

    model, images = _model_and_images(weights, config)
    # Plain attention: the fused kernels' outputs have a memory layout that ONNX does not reproduce.
    with sdpa_kernel(SDPBackend.MATH):
        torch.onnx.export(
            model,
            (images,),
            path,
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        return (model(images) - torch.from_numpy(logits)).abs().max().item()


def export_program(weights: Mapping[str, Tensor], config: Config, path: Path) -> None:
    """Write a `torch.export` program (.pt2) `images` [B, C, H, W] -> logits for any B."""
    model, images = _model_and_images(weights, config)
    program = torch.export.export(
        model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
    )
    torch.export.save(program, path)


def _model_and_images(weights: Mapping[str, Tensor], config: Config) -> tuple[nn.Module, Tensor]:
    model = build_model(config).eval()
    model.load_state_dict(weights)
    generator = torch.Generator().manual_seed(0)
    # Two images: the exporter would take a batch size of 1 for a constant.
    shape = (2, config.in_channels, *config.image_hw)
    return model, torch.rand(shape, generator=generator) * 2 - 1


def _check_names(names: Sequence[str] | None, config: Config) -> None:
    if names and len(names) != config.num_classes:
        raise BadModel(f"wanted {config.num_classes} class names, found {len(names)}")


def _hugging_face_has(config: Config) -> ViTConfig:
    """The config, if Hugging Face's ViT can represent it; else BadModel names what it has not.

    LayerScale, missing biases and missing rows of positions are no reason: they are folded, or
    filled with zeros.
    """
    if not isinstance(config, ViTConfig):
        raise BadModel(f"Hugging Face's ViT has no place for a {config.family}")
    wanted = {name: getattr(_HUGGING_FACE, name) for name in _HUGGING_FACE_FIXED}
    different = [
        f"{name} {getattr(config, name)!r} (wanted {value!r})"
        for name, value in wanted.items()
        if getattr(config, name) != value
    ]
    if different:
        raise BadModel(f"Hugging Face's ViT has no place for {', '.join(different)}")
    return config


def _hugging_face_names(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name in _HUGGING_FACE_TOP:
        return {_HUGGING_FACE_TOP[name]: tensor}
    _, number, *module, leaf = name.split(".")
    block, module = f"vit.encoder.layer.{number}", ".".join(module)
    if module != "attn.qkv":
        return {f"{block}.{_HUGGING_FACE_BLOCK[module]}.{leaf}": tensor}
    names = (f"{block}.attention.attention.{part}.{leaf}" for part in ("query", "key", "value"))
    return dict(zip(names, tensor.chunk(3), strict=True))


def _write_folder(
    folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, Mapping[str, Any]]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
