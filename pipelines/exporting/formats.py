"""The files of each format, beside README.md.

timm, hf       model.safetensors, config.json, for hf preprocessor_config.json
onnx           model.onnx, preprocessing.json
torch-export   model.pt2, preprocessing.json
mlflow         MLmodel, code/, artifacts/
peft           adapter_model.safetensors, adapter_config.json
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pipelines.exporting.export import Export, base_of
from pipelines.recipes.errors import Mistake
from vit import export_hugging_face, export_onnx, export_program, export_timm
from vit.export_peft import export_peft
from vit.lora import lora_of

MOST_DIFFERENCE = 1e-3
"""Largest difference between logits of ONNX Runtime and torch that is accepted."""


def write_format(export: Export, tensors: Mapping[str, Tensor], folder: Path) -> str:
    """Write the files into a folder; return a note about them, or an empty text.

    Raises:
        Mistake: ONNX's packages are missing, or it computes something else.
        vit.errors.BadModel: the other library cannot represent the model.
    """
    config, names = export.candidate.config, export.classes.names
    if export.to == "timm":
        preprocessing = export.preprocessing
        export_timm(tensors, config, folder, class_names=names, preprocessing=preprocessing)
        return ""
    if export.to == "hf":
        preprocessing = export.preprocessing
        export_hugging_face(tensors, config, folder, class_names=names, preprocessing=preprocessing)
        return ""
    if export.to == "mlflow":
        _mlflow(export, tensors, folder)
        return ""
    if export.to == "peft":
        return _peft(export, folder)
    note = ""
    if export.to == "onnx":
        note = _onnx(export, tensors, folder / "model.onnx")
    else:
        export_program(tensors, config, folder / "model.pt2")
    said = export.preprocessing.plain(*config.image_hw) | {"class_names": names and list(names)}
    (folder / "preprocessing.json").write_text(json.dumps(said, indent=2) + "\n")
    return note


def _mlflow(export: Export, tensors: Mapping[str, Tensor], folder: Path) -> None:
    from pipelines.tracking.registry import save_model  # other formats do not wait for MLflow

    if export.classes.names is None:
        raise Mistake(f"--to mlflow needs the classes' names: {export.classes.unknown}")
    save_model(
        folder,
        tensors,
        export.candidate.config,
        classes=export.classes.names,
        crop=export.candidate.data.val_crop(export.candidate.config.image_hw[0]),
        metadata={"weights_sha256": export.candidate.sha256},
    )


def _peft(export: Export, folder: Path) -> str:
    manifest = export.manifest
    assert manifest is not None
    lora = lora_of(manifest.stage["train"])
    assert lora is not None
    base = base_of(manifest)
    export_peft(export.candidate.source.tensors(name="adapters"), lora, folder, base=base)
    return f"adapters of rank {lora.rank}, to be put onto {base or 'what they were trained beside'}"


def _onnx(export: Export, tensors: Mapping[str, Tensor], path: Path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own deprecated parts
            difference = export_onnx(tensors, export.candidate.config, path)
    except ImportError as error:
        raise Mistake(
            f"--to onnx needs the package {error.name}: pip install 'vit-on-ray[onnx]'"
        ) from None
    if not difference < MOST_DIFFERENCE:
        raise Mistake(
            f"{export.candidate.uri}: ONNX Runtime's logits differ by {difference:g}, wanted less"
            f" than {MOST_DIFFERENCE:g} - take --to torch-export"
        )
    return f"logits of ONNX Runtime and torch differ by at most {difference:.1e}"
