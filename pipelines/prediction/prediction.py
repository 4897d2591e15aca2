"""Turn a command line into a prediction that can run, with all checks that need no cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import tyro

from pipelines.cli.options import Command
from pipelines.lineage.candidate import Candidate, WeightsOptions, find_candidate
from pipelines.lineage.class_names import ClassNames, class_names_of
from pipelines.prediction.listing import Found, find
from pipelines.prediction.one_file import CSV, file_of, parts_of
from pipelines.recipes.errors import Mistake
from storage.decode import Crop
from storage.uri import parse

BATCHES_PER_PIECE = 4


@dataclass(frozen=True, kw_only=True)
class PredictionOptions(WeightsOptions):
    """Options of `predict.py`."""

    TAKES_NO_FORCE: ClassVar = True
    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Images: files, folders, tars, s3:// prefixes, packed datasets (folders with a
    dataset.json)."""
    out: str | None = None
    """FILE.csv or FILE.parquet to write instead of printing, or a folder of Parquet files, which
    may be s3://... The same command again resumes where the first one stopped."""
    top: int = 1
    """Number of classes per image, the likeliest first."""
    features: bool = False
    """Also write the pooled output before the head, as column features. Needs --out, no CSV."""
    split: str | None = None
    """Split of packed datasets. Default: the stage's validation split."""
    class_names: Path | None = None
    """Text file with one class name per line. Default: the names of the packed dataset that the
    stage was trained on."""
    image_size: int | None = None
    """Resolution in pixels; the weights are adapted to it. Default: that of the weights."""
    batch: int = 64
    """Images that go through the network at once."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network's forward pass."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A prediction that is about to run."""

    found: list[Found]
    candidate: Candidate
    classes: ClassNames
    crop: Crop
    top: int
    """Classes per image; 0 if the weights have no head for this model."""
    features: bool
    out: str | None
    """Folder of the parts."""
    file: Path | None
    """The one file that the parts become."""
    batch: int
    precision: Literal["float32", "bfloat16"]

    @property
    def rows_per_piece(self) -> int:
        """Images that one task reads, and one Parquet file holds."""
        return self.batch * BATCHES_PER_PIECE


def make_prediction(command: Command[PredictionOptions]) -> Prediction:
    """Find weights, class names and images.

    Raises:
        Mistake: one line.
        storage.errors.StorageError: the storage refuses or does not answer.
    """
    options, place, own = command.options, command.place, command.own
    _check_options(own)
    candidate = find_candidate(command.recipe, place, options, own, image_size=own.image_size)
    count, side = candidate.config.num_classes, candidate.config.image_size
    if not isinstance(side, int):
        raise Mistake(f"{candidate.name} takes images of {side} pixels: only square ones are cut")
    headless = candidate.head_reset or (None if count else "0 classes")
    if headless and not own.features:
        raise Mistake(f"{candidate.uri} has no head for this model ({headless}) - take --features")
    if own.top > count and not headless:
        raise Mistake(f"--top {own.top}: the model has {count} classes")
    file = None if own.out is None else file_of(own.out)
    out = None if own.out is None else parts_of(file) if file else str(parse(own.out))
    return Prediction(
        candidate=candidate,
        classes=(
            ClassNames(None) if headless else class_names_of(candidate, place, file=own.class_names)
        ),
        found=find(own.sources, split=own.split or candidate.data.val_split),
        crop=candidate.data.val_crop(side),
        top=0 if headless else own.top,
        features=own.features,
        out=out,
        file=file,
        batch=own.batch,
        precision=own.precision,
    )


def _check_options(own: PredictionOptions) -> None:
    for name in ("top", "batch"):
        if getattr(own, name) < 1:
            raise Mistake(f"--{name}: wanted at least 1, found {getattr(own, name)}")
    if own.out is not None and own.out.lower().endswith((".tsv", ".json", ".xlsx")):
        raise Mistake(f"--out {own.out}: wanted FILE.csv, FILE.parquet or a folder")
    if own.features and (own.out is None or own.out.lower().endswith(CSV)):
        raise Mistake("--features are written to Parquet: take --out FILE.parquet")
