"""`pipelines/inspect_weights.py`: its command line and its files."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from pipelines.cli.command_line import program_name, read_command
from pipelines.cli.exits import errors_as_exits
from pipelines.cli.options import Command
from pipelines.inspection.inspection import IMAGES, Inspection, inspect_weights
from pipelines.inspection.subject import (
    Subject,
    before_upscale,
    committed_subject,
    imported_subject,
)
from pipelines.lineage.attempts import Attempt, committed_attempts, started_last
from pipelines.lineage.source import Source, init_location, open_source
from pipelines.recipes.data import Data
from pipelines.recipes.errors import Mistake
from storage.dataset import load_dataset
from storage.uri import join


@dataclass(frozen=True, kw_only=True)
class InspectionOptions:
    """Options of `inspect_weights.py`."""

    weights: str | None = None
    """Weights to inspect instead of the run's stages (path or s3://): a stage's attempt or a public
    checkpoint."""
    only: str | None = None
    """Inspect only this stage. For a checkpoint: the stage that gives model and data."""
    dataset: str | None = None
    """Dataset under place.data_root to take images from. Default: that of the stage."""
    split: str | None = None
    """Split to take images from. Default: the stage's validation split."""
    images: int = IMAGES
    """Number of images over which attention distance is averaged."""
    out: str = "inspection"
    """Folder for the pictures, with a subfolder per stage."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Weights to inspect, and the folder for their pictures."""

    folder: str
    subjects: tuple[Subject, ...]
    data: Data


def main(description: str) -> NoReturn:
    """Write the pictures; exit with a code of `pipelines.cli.exits`."""
    with errors_as_exits():
        command = read_command(
            sys.argv[1:],
            prog=program_name(),
            description=description,
            own=InspectionOptions(),
        )
        if command.own.images < 1:
            raise Mistake(f"--images: wanted at least 1, found {command.own.images}")
        for target in targets(command):
            _write(target, _inspect(target, command), Path(command.own.out))
    sys.exit(0)


def targets(command: Command[InspectionOptions]) -> list[Target]:
    """Find the weights that the command line names.

    Raises:
        Mistake: there are none; says where they were looked for and what makes them.
    """
    uri, only = command.own.weights, command.own.only
    if uri is None:
        stages = [command.recipe.stage(only)] if only else list(command.recipe.stages)
        newest = [attempt for stage in stages if (attempt := _newest(command, stage.name))]
        if not newest:
            options = command.options
            requested = f" ({options.parent})" if options.parent else ""
            raise Mistake(
                f"no committed weights of {', '.join(stage.name for stage in stages)}{requested}"
                f" under {join(command.place.storage_root, options.run)}"
                f" - run: pipelines/pipeline.py --recipe {options.recipe}"
                f" --run {options.run}, or name others by --weights"
            )
        return [_committed(Source(uri=each.uri, manifest=each.manifest)) for each in newest]
    with open_source(init_location(uri)) as source:
        if source.manifest is not None:
            return [_committed(source)]
        stage = command.recipe.stage(only) if only else command.recipe.stages[0]
        subject = imported_subject(source, stage)
    return [Target(folder=Path(subject.name).stem, subjects=(subject,), data=stage.data)]


def _newest(command: Command[InspectionOptions], stage: str) -> Attempt | None:
    """The attempt at a stage that was started last, of those that `--parent` allows."""
    requested = command.options.parent
    return started_last(
        attempt
        for attempt in committed_attempts(command.place.storage_root, command.options.run, stage)
        if requested in (None, attempt.name, attempt.fingerprint)
    )


def _committed(source: Source) -> Target:
    subject = committed_subject(source)
    both = [each for each in (before_upscale(source), subject) if each]
    return Target(
        folder=f"{subject.name}-{source.name}",
        subjects=tuple(both),
        data=source.committed.data(),
    )


def _inspect(target: Target, command: Command[InspectionOptions]) -> Inspection:
    own, data = command.own, target.data
    if own.dataset:  # its classes are others
        data = replace(data, dataset=own.dataset, selection=replace(data.selection, classes=None))
    if own.split:
        data = replace(data, val_split=own.split)
    dataset = load_dataset(join(command.place.data_root, data.dataset))
    return inspect_weights(target.subjects, dataset, data, count=own.images)


def _write(target: Target, inspection: Inspection, out: Path) -> None:
    folder = out / target.folder
    folder.mkdir(parents=True, exist_ok=True)
    for note in inspection.notes:
        print(note)
    for name, content in inspection.files().items():
        (folder / name).write_bytes(content)
        print(f"wrote {folder / name}")
