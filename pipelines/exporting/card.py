"""README.md of an exported folder: a model card with the header that the Hugging Face Hub reads.

Everything in it comes from the manifest. Paths and buckets of the place where it was trained are
left out: a card is meant to be published.
"""

from typing import Any

import yaml

from pipelines.exporting.export import Export, Format, base_of
from pipelines.lineage.manifest import Manifest
from vit import Config, ViTConfig

_LIBRARY: dict[Format, str] = {
    "timm": "timm",
    "hf": "transformers",
    "onnx": "onnx",
    "torch-export": "pytorch",
    "mlflow": "mlflow",
    "peft": "peft",
}
_METRICS = ("accuracy", "top_5")  # of those that a stage measures, what the Hub knows
_LOADING: dict[Format, str] = {
    "timm": """import timm
from PIL import Image

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(Image.open("image.jpg").convert("RGB"))[None])""",
    "hf": """from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("FOLDER")
model = AutoModelForImageClassification.from_pretrained("FOLDER").eval()
logits = model(**processor(Image.open("image.jpg"), return_tensors="pt")).logits""",
    "onnx": """import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/model.onnx")
(logits,) = session.run(None, {"images": images})  # float32 [B, C, H, W]""",
    "torch-export": """import torch

program = torch.export.load("FOLDER/model.pt2").module()
logits = program(images)  # float32 [B, C, H, W]""",
    "peft": """import timm
from peft import PeftModel

# timm's model of the weights that the adapters were trained beside
base = timm.create_model("{base}", pretrained=True, num_classes={classes}, img_size={size})
model = PeftModel.from_pretrained(base, "FOLDER").eval()
logits = model(images)  # float32 [B, C, H, W]""",
    "mlflow": """import mlflow
import pandas as pd

model = mlflow.pyfunc.load_model("FOLDER")
model.predict(pd.DataFrame({"image": [open("image.jpg", "rb").read()]}))""",
}
_BACKBONE = """from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("FOLDER")
model = AutoModel.from_pretrained("FOLDER").eval()
tokens = model(**processor(Image.open("image.jpg"), return_tensors="pt")).last_hidden_state"""
"""For transformers, of a model without classes."""


def card(export: Export) -> str:
    """Return the text of README.md."""
    header = yaml.safe_dump(_header(export), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{header}---\n",
        f"# {_title(export)}\n",
        f"{_model(export.candidate.config)}, {'trained' if export.manifest else 'converted'} with"
        " vit-on-ray.\n",
        "## Use\n",
        f"```python\n{_loading(export)}\n```\n",
        *_pixels(export),
        "## Where it comes from\n",
        _table(_lineage(export)),
    ]
    if results := _results(export):
        shown = {name: f"{value:.4g}" for name, value in results.items()}
        parts += ["## Results\n", _table(shown)]
    parts += [
        "## Licence\n",
        "The licence of these weights is not stated here: it depends on the data they were trained"
        " on, and on the weights they were started from. Whoever publishes this folder adds"
        " `license:` to the header above.\n",
    ]
    return "\n".join(parts)


def _loading(export: Export) -> str:
    text = _LOADING[export.to]
    if export.to == "hf" and not export.candidate.config.num_classes:
        return _BACKBONE
    if export.to != "peft":
        return text
    config, manifest = export.candidate.config, export.manifest
    base = base_of(manifest) if manifest else None
    return text.format(
        base=f"hf-hub:{base}" if base else "BASE",
        classes=config.num_classes,
        size=config.image_hw,
    )


def _header(export: Export) -> dict[str, Any]:
    """The YAML header. The last field is ours, the others are the Hub's."""
    classes = export.candidate.config.num_classes
    task = "image-classification" if classes else "image-feature-extraction"
    header: dict[str, Any] = {
        "library_name": _LIBRARY[export.to],
        "pipeline_tag": task,
        "tags": [task, export.candidate.config.family, "vit-on-ray"],
    }
    manifest = export.manifest
    if manifest is None:
        return header | {"vit_on_ray": {"weights_sha256": export.candidate.sha256}}
    if manifest.dataset and (results := _results(export)):
        data = {"name": manifest.dataset.name, "type": manifest.dataset.name}
        split = {"split": export.candidate.data.val_split, "revision": manifest.dataset.digest}
        header["metrics"] = [name for name in _METRICS if name in results]
        header["model-index"] = [
            {
                "name": _title(export),
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": data | split,
                        "metrics": [
                            {"type": name, "value": value}
                            for name, value in results.items()
                            if name in _METRICS
                        ],
                    }
                ],
            }
        ]
    return header | {"vit_on_ray": _lineage(export)}


def _title(export: Export) -> str:
    manifest = export.manifest
    if manifest is None:
        return export.candidate.name
    names = (manifest.run, manifest.recipe or export.recipe, manifest.stage_name)
    return " ".join(dict.fromkeys(name for name in names if name))


def _lineage(export: Export) -> dict[str, Any]:
    """Names and digests by which the weights are found again."""
    candidate, manifest = export.candidate, export.manifest
    weights = {"weights": candidate.average, "weights_sha256": candidate.sha256}
    if manifest is None:
        return {"checkpoint": candidate.name, **weights}
    found: dict[str, Any] = {
        "recipe": manifest.recipe or export.recipe,
        "run": manifest.run,
        "stage": manifest.stage_name,
        "fingerprint": manifest.fingerprint,
        "step": manifest.step,
        **({"chosen_by": manifest.best.metric} if manifest.best else {}),
        **weights,
        **_origin(manifest),
    }
    if manifest.dataset:
        found |= {"dataset": manifest.dataset.name, "dataset_digest": manifest.dataset.digest}
    if manifest.git_commit:
        found["git_commit"] = manifest.git_commit
    return found


def _origin(manifest: Manifest) -> dict[str, Any]:
    """What the stage started from; of a checkpoint's place only the last part."""
    found: dict[str, Any] = {}
    if manifest.parent:
        found["parent"] = f"{manifest.parent.stage} {manifest.parent.attempt}"
        found["parent_sha256"] = manifest.parent.weights_sha256
    if manifest.init:
        found["base_model"] = manifest.init.uri.rstrip("/").rpartition("/")[2]
        found["base_model_sha256"] = manifest.init.sha256
    return found


def _results(export: Export) -> dict[str, float]:
    """Metrics of the exported weights on the validation split, without its name."""
    prefix = "val_ema/" if export.candidate.average == "ema" else "val/"
    metrics = export.manifest.metrics if export.manifest else {}
    return {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix) and name != f"{prefix}seconds"  # of the machine that measured
    }


def _pixels(export: Export) -> list[str]:
    height, width = export.candidate.config.image_hw
    values = (
        "normalised as the base model wants them"
        if export.to == "peft"
        else "in [-1, 1] (mean and standard deviation 0.5)"
    )
    cut = (
        "the shorter side is resized to"
        f" {export.preprocessing.shorter_side(min(height, width))} pixels and the centre is cut out"
        if export.preprocessing.crop == "center"
        else "the whole image is resized, whatever its aspect ratio"
    )
    return [
        f"Images are {height} x {width} pixels of RGB {values}; {cut}, with an antialiased"
        f" {export.preprocessing.interpolation} filter. That is how the results were measured.\n"
    ]


def _model(config: Config) -> str:
    if isinstance(config, ViTConfig):
        return (
            f"A Vision Transformer of {config.depth} blocks, width {config.width},"
            f" {config.heads} heads, patches of {config.patch_size} pixels,"
            f" {config.num_classes} classes"
        )
    return f"A BiT ResNet with blocks {config.blocks}, {config.num_classes} classes"


def _table(values: dict[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
    return f"| | |\n|---|---|\n{rows}\n"
