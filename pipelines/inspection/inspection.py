"""Make all pictures of some weights, for the script and after a training stage."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.cli.exits import unwrapped
from pipelines.inspection.measure import measure
from pipelines.inspection.samples import read_fixed_samples
from pipelines.inspection.subject import Subject, before_upscale, committed_subject
from pipelines.lineage.manifest import WEIGHTS
from pipelines.lineage.source import committed_source
from pipelines.recipes.data import Data
from pipelines.recipes.streams import val_selection
from storage.dataset import Dataset, load_dataset

IMAGES = 128  # as many as the paper averages over
NUMBERS = "inspection.json"
FOLDER = "pictures"
# After a stage the pictures take seconds of the driver; of a large model the script makes them.
_LARGEST_BYTES = 2 << 30
_MOST_FLOPS = 1e12


@dataclass(frozen=True)
class Inspection:
    """Pictures and numbers of the inspected models."""

    pictures: dict[str, bytes]
    """File name -> PNG."""
    record: list[dict[str, Any]]
    """The numbers of each model."""
    notes: tuple[str, ...]
    """One line per picture that a model cannot have, with the reason."""

    def files(self) -> dict[str, bytes]:
        """Pictures and numbers by name."""
        return self.pictures | {NUMBERS: json.dumps(self.record, indent=1).encode() + b"\n"}


def inspect_weights(
    subjects: Sequence[Subject], dataset: Dataset, data: Data, *, count: int = IMAGES
) -> Inspection:
    """Draw the models side by side, on the same images of `data`'s validation split.

    Args:
        subjects: the weights; two where an upscale is shown, before and after.
        dataset: packed images.
        data: split, classes and crop.
        count: images that attention distance is averaged over.

    Raises:
        ValueError: the images cannot be read, or do not fit the model.
    """
    from pipelines.inspection import figures  # matplotlib takes a second, which few runs need

    samples = read_fixed_samples(
        dataset,
        data.val_split,
        selection=val_selection(data),
        count=count,
        crop=data.val_crop(subjects[-1].image_size),
    )
    models = [measure(subject, samples, data) for subject in subjects]
    made = {
        "filters.png": figures.filters_picture(models),
        "position-similarity.png": figures.positions_picture(models),
        "attention-distance.png": figures.distances_picture(models),
        "attention-rollout.png": figures.rollout_picture(models),
    }
    return Inspection(
        pictures={name: png for name, png in made.items() if png is not None},
        record=[model.record() for model in models],
        notes=tuple(note for model in models for note in model.notes),
    )


def inspect_after_stage(
    attempt_uri: str,
    dataset_uri: str,
    *,
    log_file: Callable[[str, bytes], None],
    note: Callable[[str], None],
) -> None:
    """Log the pictures of weights that were just committed, before and after an upscale.

    Never raises: an error is printed as one line, because the stage itself is finished.
    """
    try:
        source = committed_source(attempt_uri)
        size = source.committed.files[WEIGHTS].bytes
        if size > _LARGEST_BYTES:
            note(
                f"no pictures of {size / 2**30:.1f} GiB of weights on the driver - run:"
                f" pipelines/inspect_weights.py --weights {attempt_uri}"
            )
            return
        subject = committed_subject(source)
        count = max(8, min(IMAGES, int(_MOST_FLOPS / subject.model.cost().forward_flops)))
        subjects = [one for one in (before_upscale(source), subject) if one]
        inspection = inspect_weights(
            subjects, load_dataset(dataset_uri), source.committed.data(), count=count
        )
        for name, content in inspection.files().items():
            log_file(f"{FOLDER}/{name}", content)
    except Exception as error:  # whatever it is, the weights are committed
        note(f"warning: no pictures of the weights: {unwrapped(error)}")
