"""What is exported: a stage's weights with everything another library has to know about them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pipelines.cli.options import Command
from pipelines.exporting.push import repository_of
from pipelines.lineage.candidate import Candidate, WeightsOptions, find_candidate
from pipelines.lineage.class_names import ClassNames, class_names_of
from pipelines.lineage.manifest import ADAPTERS, Manifest
from pipelines.recipes.errors import Mistake
from vit import Preprocessing

Format = Literal["timm", "hf", "onnx", "torch-export", "mlflow", "peft"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions(WeightsOptions):
    """Options of `export.py`."""

    TAKES_NO_FORCE: ClassVar = True
    to: Format
    """Library that shall load the folder: timm, Hugging Face transformers (hf), ONNX Runtime, torch
    without this repository (torch-export), MLflow, which can serve it (mlflow), or Hugging Face's
    PEFT: the low-rank adapters alone, for timm's model of the weights they were trained beside."""
    out: Path
    """Folder to write, new or empty."""
    class_names: Path | None = None
    """Text file with one class name per line. Default: the names of the packed dataset that the
    stage was trained on."""
    register: str | None = None
    """With `--to mlflow`, name in MLflow's model registry: the folder becomes its newest version,
    models:/NAME@champion."""
    push: str | None = None
    """Repository of the Hugging Face Hub to push the folder to, hf://ORG/NAME; a new one is
    private."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """An export that can be written."""

    to: Format
    out: Path
    candidate: Candidate
    manifest: Manifest | None
    """Of the stage; None for a public checkpoint."""
    classes: ClassNames
    preprocessing: Preprocessing
    recipe: str
    register: str | None = None
    """Name in MLflow's model registry."""
    push: str | None = None
    """Repository to push to, ORG/NAME."""


def make_export(command: Command[ExportOptions]) -> Export:
    """Find weights, class names and preprocessing.

    Raises:
        Mistake: one line.
        storage.errors.Unavailable: the storage does not answer.
    """
    options, place, own = command.options, command.place, command.own
    if own.register is not None and own.to != "mlflow":
        raise Mistake(
            f"--register {own.register}: MLflow cannot load --to {own.to} - add --to mlflow"
        )
    if own.to == "peft":
        own = _live(own)
    candidate = find_candidate(command.recipe, place, options, own)
    if candidate.head_reset:
        raise Mistake(f"{candidate.uri} has no head for this model ({candidate.head_reset})")
    manifest = candidate.source.manifest
    if own.to == "peft" and (manifest is None or ADAPTERS not in manifest.files):
        raise Mistake(
            f"--to peft: {candidate.uri} has no adapters of its own - train some by --stage.train"
            " 'lora 8', or take --to timm for all weights"
        )
    if own.register is not None and (manifest is None or not manifest.mlflow_run_id):
        raise Mistake(
            f"--register {own.register}: {candidate.uri} has no MLflow run to belong to - take the"
            " weights of a stage, by --run"
        )
    return Export(
        to=own.to,
        out=own.out,
        candidate=candidate,
        manifest=manifest,
        classes=class_names_of(candidate, place, file=own.class_names),
        preprocessing=candidate.data.preprocessing,
        recipe=options.recipe,
        register=own.register,
        push=None if own.push is None else repository_of(own.push),
    )


def _live(own: ExportOptions) -> ExportOptions:
    if own.average == "ema":
        raise Mistake("--to peft: adapters are kept without an average - take --average live")
    return replace(own, average="live")


def base_of(manifest: Manifest) -> str | None:
    """Name on the Hugging Face Hub, ORG/NAME, of the checkpoint that a stage started from."""
    uri = manifest.init.uri if manifest.init else ""
    return uri.removeprefix("hf://").partition("@")[0] if uri.startswith("hf://") else None
