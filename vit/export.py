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
from vit.config import Config, ViTConfig
from vit.errors import BadModel
from vit.hugging_face_model import hugging_face_model
from vit.preprocessing import Preprocessing
from vit.surgery import check_state_dict
from vit.timm_model import timm_arguments, timm_tensors

_CENTER = Preprocessing()


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
    """Write a folder for `AutoModelForImageClassification.from_pretrained(FOLDER)` of transformers.

    It is of the family that the model belongs to (`vit.hugging_face_families`). A model without
    classes is for `AutoModel`.
    Raises BadModel if no family represents the config, or if the number of class names is wrong.
    """
    check_state_dict(weights, config)
    described, tensors = hugging_face_model(weights, config)
    _check_names(class_names, config)
    names = list(class_names or (f"LABEL_{i}" for i in range(config.num_classes)))
    described["id2label"] = {str(i): name for i, name in enumerate(names)}
    described["label2id"] = {name: i for i, name in enumerate(names)}
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


def _write_folder(
    folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, Mapping[str, Any]]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
