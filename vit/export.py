"""Export weights as a timm folder, a Hugging Face folder, ONNX or a torch.export program.

All of them expect pixels in [-1, 1] like the models here. The folders of timm and Hugging Face also
state how an image is cut: `preprocessing`, which should be that of the evaluation.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vit.build import build_model
from vit.config import BiTConfig, Config, ViTConfig
from vit.errors import BadModel
from vit.preprocessing import Preprocessing
from vit.surgery import check_state_dict

_CENTER = Preprocessing()
_TIMM_BIT: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 4, 6, 3), 1): "resnetv2_50x1_bit",
    ((3, 4, 6, 3), 3): "resnetv2_50x3_bit",
    ((3, 4, 23, 3), 1): "resnetv2_101x1_bit",
    ((3, 4, 23, 3), 3): "resnetv2_101x3_bit",
    ((3, 8, 36, 3), 2): "resnetv2_152x2_bit",
    ((3, 8, 36, 3), 4): "resnetv2_152x4_bit",
}
_HUGGING_FACE_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
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
    architecture, arguments = _timm_arguments(config)
    height, width = config.image_hw
    described = {
        "architecture": architecture,
        "num_classes": config.num_classes,
        "norm_eps": getattr(config, "norm_eps", None),  # timm ignores it; our importer reads it
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [config.in_channels, height, width],
            **preprocessing.timm(),
            "num_classes": config.num_classes,
            "first_conv": "patch_embed.proj" if isinstance(config, ViTConfig) else "stem.conv",
            "classifier": "head" if isinstance(config, ViTConfig) else "head.fc",
        },
        **({"label_names": list(class_names)} if class_names else {}),
    }
    _write_folder(folder, weights, {"config.json": described})


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
    _refuse("Hugging Face's ViT", config, pool="token", pos_embed="learned-1d", head="linear")
    assert isinstance(config, ViTConfig)
    _check_names(class_names, config)
    names = list(class_names or (f"LABEL_{i}" for i in range(config.num_classes)))
    size = list(config.image_hw)
    described = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_dim,
        "image_size": size[0] if size[0] == size[1] else size,
        "patch_size": config.patch_size,
        "num_channels": config.in_channels,
        "hidden_act": "gelu" if config.gelu == "exact" else "gelu_pytorch_tanh",
        "layer_norm_eps": config.norm_eps,
        "qkv_bias": True,
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


def _timm_arguments(config: Config) -> tuple[str, dict[str, Any]]:
    """Name of a timm model, and the arguments that turn it into `config`'s."""
    if isinstance(config, BiTConfig):
        key = (config.blocks, config.width_factor)
        if key not in _TIMM_BIT or config.in_channels != 3:
            raise BadModel(f"timm has no BiT with blocks {key[0]} and width_factor {key[1]}")
        return _TIMM_BIT[key], {}
    _refuse("timm's ViT", config, head="linear")
    if config.pos_embed not in ("learned-1d", "none"):
        raise BadModel(f"timm's ViT has no place for pos_embed {config.pos_embed!r}")
    arguments = {
        "img_size": list(config.image_hw),
        "patch_size": config.patch_size,
        "in_chans": config.in_channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        # timm truncates width * ratio; half a unit more survives that.
        "mlp_ratio": (config.mlp_dim + 0.5) / config.width,
        "class_token": config.pool == "token",
        "global_pool": "avg" if config.pool == "gap" else config.pool,
        "pool_include_prefix": config.pool == "map",
        "fc_norm": config.fc_norm,
        "reg_tokens": config.registers,
        "no_embed_class": not config.pos_embed_prefix,
        "pos_embed": "learn" if config.pos_embed == "learned-1d" else "none",
        "act_layer": "gelu_tanh" if config.gelu == "tanh" else "gelu",
    }
    return "vit_base_patch16_224", arguments


def _check_names(names: Sequence[str] | None, config: Config) -> None:
    if names and len(names) != config.num_classes:
        raise BadModel(f"wanted {config.num_classes} class names, found {len(names)}")


def _refuse(whose: str, config: Config, **wanted: str) -> None:
    """Raise BadModel if a field of `config` is not as `wanted`, naming each such field.

    `whose` is the name of the target library, for the message.
    """
    if not isinstance(config, ViTConfig):
        raise BadModel(f"{whose} has no place for a {config.family}")
    found = {name: getattr(config, name) for name in wanted}
    if "pool" in wanted:  # the strictest of them
        wanted, found = wanted | {"registers": "0"}, found | {"registers": str(config.registers)}
    different = [
        f"{n} {found[n]!r} (wanted {wanted[n]!r})" for n in wanted if found[n] != wanted[n]
    ]
    if config.stem_blocks:
        different.append(f"stem_blocks {config.stem_blocks}")
    if different:
        raise BadModel(f"{whose} has no place for {', '.join(different)}")


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
