"""What is exported: a stage's weights with everything another library has to know about them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.cli.options import Command
from pipelines.lineage.candidate import Average, Candidate, find_candidate
from pipelines.lineage.class_names import ClassNames, find_class_names, read_class_names
from pipelines.lineage.manifest import Manifest
from pipelines.recipes.errors import Mistake
from vit import Preprocessing

Format = Literal["timm", "hf", "onnx", "torch-export"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `export.py`."""

    to: Format
    """Library that shall load the folder: timm, Hugging Face transformers (hf), ONNX Runtime, or
    torch without this repository (torch-export)."""
    out: Path
    """Folder to write, new or empty."""
    only: str | None = None
    """Stage to export. Default: the last stage of the recipe."""
    weights: str | None = None
    """Other weights to export (path or s3://): a stage's attempt, or a public checkpoint that fits
    the model of that stage."""
    average: Average = "auto"
    """Weights of a stage: its Polyak average (ema) or the live ones; auto is ema if it exists."""
    class_names: Path | None = None
    """Text file with one class name per line. Default: the names of the packed dataset that the
    stage was trained on."""
    init_image_size: int | None = None
    """Resolution in pixels of a checkpoint whose files do not record it."""


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


def make_export(command: Command[ExportOptions]) -> Export:
    """Find weights, class names and preprocessing.

    Raises:
        Mistake: one line.
        storage.errors.Unavailable: the storage does not answer.
    """
    options, place, own = command.options, command.place, command.own
    if options.force:
        raise Mistake("--force: an export is no attempt at a stage - give another --out")
    candidate = find_candidate(
        command.recipe,
        place,
        run=options.run,
        only=own.only,
        parent=options.parent,
        uri=own.weights,
        average=own.average,
        init_image_size=own.init_image_size,
    )
    if candidate.head_reset:
        raise Mistake(f"{candidate.uri} has no head for this model ({candidate.head_reset})")
    manifest = candidate.source.manifest
    count = candidate.config.num_classes
    return Export(
        to=own.to,
        out=own.out,
        candidate=candidate,
        manifest=manifest,
        classes=(
            read_class_names(own.class_names, classes=count)
            if own.class_names
            else find_class_names(candidate.data, manifest, place, classes=count)
        ),
        preprocessing=Preprocessing(
            crop=candidate.data.eval_crop, crop_fraction=candidate.data.eval_fraction
        ),
        recipe=options.recipe,
    )
