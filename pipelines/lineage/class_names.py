"""Names of the classes that weights tell apart: of a text file, a checkpoint, or a dataset."""

from dataclasses import dataclass
from pathlib import Path

from cluster.settings import Place
from pipelines.lineage.candidate import Candidate
from pipelines.lineage.manifest import Manifest
from pipelines.recipes.data import Data
from pipelines.recipes.errors import MISTAKES, Mistake
from pipelines.recipes.streams import val_selection
from storage.dataset import load_dataset
from storage.uri import join


@dataclass(frozen=True)
class ClassNames:
    """Class names by label, or the reason why they are unknown."""

    names: tuple[str, ...] | None
    unknown: str = ""
    """Why there are none, and what to do; empty if they are known."""

    def name_of(self, label: int) -> str:
        """The class's name, or its number if names are unknown."""
        return self.names[label] if self.names else str(label)


def class_names_of(candidate: Candidate, place: Place, *, file: Path | None) -> ClassNames:
    """Class names of weights; none where they have no head.

    They are those of a text file, else what a public checkpoint's files say, else those of the
    packed dataset that the weights were trained on.

    Args:
        candidate: the weights.
        place: where datasets lie.
        file: one class name per line; None where the command line gives no file.

    Raises:
        Mistake: the file cannot be read, or has another number of names.
    """
    classes = candidate.config.num_classes
    if not classes:
        return ClassNames(None)
    if file is not None:
        return _of_file(file, classes=classes)
    if candidate.class_names is not None:
        return ClassNames(candidate.class_names)
    return _of_dataset(candidate.data, candidate.source.manifest, place, classes=classes)


def _of_file(path: Path, *, classes: int) -> ClassNames:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text in UTF-8"
        raise Mistake(f"--class-names {path}: {reason}") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != classes:
        raise Mistake(
            f"--class-names {path}: {len(names)} names, but the model has {classes} classes - give"
            " one name per line"
        )
    return ClassNames(names)


def _of_dataset(data: Data, manifest: Manifest | None, place: Place, *, classes: int) -> ClassNames:
    uri = join(place.data_root, data.dataset)
    try:
        dataset = load_dataset(uri)
        names = val_selection(data).class_names(dataset.classes)
    except MISTAKES as error:
        return _unknown(str(error).partition(" - ")[0].partition(":")[0])
    known = manifest.dataset if manifest else None
    if known and known.digest != dataset.digest:
        return _unknown(f"{uri} is not the dataset of the training: its digest is another")
    if len(names) != classes:
        return _unknown(f"{uri} has {len(names)} classes, the model {classes}")
    return ClassNames(names)


def _unknown(reason: str) -> ClassNames:
    return ClassNames(
        None,
        f"class names are unknown ({reason}), so classes are numbers - set --place.data-root, or"
        " give --class-names FILE with one name per line",
    )
