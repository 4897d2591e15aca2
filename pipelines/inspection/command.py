"""`pipelines/inspect_weights.py`: its command line and its files."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from pipelines.cli.exits import errors_as_exits
from pipelines.cli.options import Command, program_name, read_command
from pipelines.cli.place import resolve_place
from pipelines.inspection.inspection import IMAGES, Inspection, inspect_weights
from pipelines.inspection.subject import (
    Subject,
    before_upscale,
    committed_subject,
    imported_subject,
)
from pipelines.lineage.attempts import Attempt, committed_attempts
from pipelines.lineage.source import data_of
from pipelines.lineage.start_weights import init_place
from pipelines.recipes.errors import Mistake
from pipelines.recipes.stage import Data
from storage import weights
from storage.dataset import load_dataset
from storage.uri import join

MORE = {
    "weights": (
        str | None,
        None,
        "A stage's attempt or a public checkpoint (path or s3://), instead of the run's stages.",
    ),
    "only": (
        str | None,
        None,
        "Look at this stage alone; for a checkpoint: the stage whose model and data it is.",
    ),
    "dataset": (str | None, None, "Another dataset under place.data_root to look at."),
    "split": (str | None, None, "Another split than the stage's validation split."),
    "images": (int, IMAGES, "Images that attention distance is averaged over."),
    "out": (str, "inspection", "Folder for the pictures; each stage gets one in it."),
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to look at, and where its pictures go."""

    folder: str
    subjects: tuple[Subject, ...]
    data: Data


def main(description: str) -> NoReturn:
    """Write the pictures; exit as `pipelines.exits` says."""
    with errors_as_exits():
        command = read_command(
            sys.argv[1:],
            stage_name=None,
            prog=program_name(),
            description=description,
            more=MORE,
        )
        command = replace(command, place=resolve_place(command.place, cwd=Path.cwd()))
        if command.more["images"] < 1:
            raise Mistake(f"--images: wanted at least 1, found {command.more['images']}")
        for target in targets(command):
            _write(target, _inspect(target, command), Path(command.more["out"]))
    sys.exit(0)


def targets(command: Command) -> list[Target]:
    """The weights that the command line names.

    Raises:
        Mistake: there are none; says where was looked and what makes them.
    """
    uri, only = command.more["weights"], command.more["only"]
    if uri is None:
        stages = [command.recipe.stage(only)] if only else list(command.recipe.stages)
        newest = [attempt for stage in stages if (attempt := _newest(command, stage.name))]
        if not newest:
            options = command.options
            asked = f" ({options.parent})" if options.parent else ""
            raise Mistake(
                f"no committed weights of {', '.join(stage.name for stage in stages)}{asked} under"
                f" {join(command.place.storage_root, options.run)} - run: pipelines/pipeline.py"
                f" --recipe {options.recipe} --run {options.run}, or name others by --weights"
            )
        return [_committed(attempt.uri) for attempt in newest]
    place = init_place(uri)
    assert place is not None
    file = place.endswith((".npz", ".safetensors", ".pt", ".pth", ".bin"))
    if not file and weights.read_manifest(place) is not None:
        return [_committed(place)]
    stage = command.recipe.stage(only) if only else command.recipe.stages[0]
    subject = imported_subject(place, stage.model, image_size=stage.init_image_size)
    return [Target(folder=Path(subject.name).stem, subjects=(subject,), data=stage.data)]


def _newest(command: Command, stage: str) -> Attempt | None:
    """The attempt at a stage that was started last, of those that `--parent` allows."""
    asked = command.options.parent
    found = [
        attempt
        for attempt in committed_attempts(command.place.storage_root, command.options.run, stage)
        if asked in (None, attempt.name, attempt.fingerprint)
    ]
    return max(found, key=lambda one: str((one.manifest or {}).get("started")), default=None)


def _committed(uri: str) -> Target:
    subject, manifest = committed_subject(uri), weights.read_manifest(uri)
    assert manifest is not None
    both = [one for one in (before_upscale(uri, manifest), subject) if one]
    attempt = uri.rstrip("/").rpartition("/")[2]
    return Target(folder=f"{subject.name}-{attempt}", subjects=tuple(both), data=data_of(manifest))


def _inspect(target: Target, command: Command) -> Inspection:
    more, data = command.more, target.data
    if more["dataset"]:  # its classes are others
        data = replace(
            data, dataset=more["dataset"], selection=replace(data.selection, classes=None)
        )
    if more["split"]:
        data = replace(data, val_split=more["split"])
    dataset = load_dataset(join(command.place.data_root, data.dataset))
    return inspect_weights(target.subjects, dataset, data, count=more["images"])


def _write(target: Target, found: Inspection, out: Path) -> None:
    folder = out / target.folder
    folder.mkdir(parents=True, exist_ok=True)
    for note in found.notes:
        print(note)
    for name, content in found.files().items():
        (folder / name).write_bytes(content)
        print(f"wrote {folder / name}")
