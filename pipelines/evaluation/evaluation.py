"""Turn a command line into an evaluation that can run, with all checks that need no cluster.

<storage_root>/<run>/evaluate/<fingerprint>/
    answers.npz           position, label, five classes, confidence and loss of each image
    per-class.csv         accuracy of each class
    confusion.csv         which class was taken for which, how often
    most-wrong.csv        the worst mistakes, in the order of the picture
    pictures/*.png        confusions, the worst mistakes
    manifest.json         written last: protocol, weights, lineage, all metrics
"""

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cluster.settings import Place
from pipelines.cli.options import Command
from pipelines.cli.place import check_root
from pipelines.evaluation.protocol import (
    FORMAT_VERSION,
    Evaluator,
    FewShot,
    Knn,
    Probe,
    Protocol,
    fingerprint,
)
from pipelines.evaluation.real_labels import read_real
from pipelines.lineage.attempts import Attempt, attempt_for
from pipelines.lineage.candidate import Candidate, WeightsOptions, find_candidate, model_record
from pipelines.lineage.manifest import DatasetName, Manifest, MeasuredWeights
from pipelines.lineage.versions import git_commit, package_versions
from pipelines.recipes.errors import Mistake
from pipelines.recipes.fingerprint import plain
from pipelines.recipes.streams import val_selection
from storage.checksum import sha256_file
from storage.columns import order_of
from storage.dataset import Dataset, load_dataset
from storage.index import load_index
from storage.selection import Selection
from storage.uri import join
from storage.verify import check_shards

STAGE = "evaluate"


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(WeightsOptions):
    """Options of `evaluate.py`."""

    evaluators: tuple[Evaluator, ...] = ("classification",)
    """Evaluators to run. All but classification measure the features before the head, and learn
    from the training split."""
    dataset: str | None = None
    """Packed dataset: the name of a folder under --place.data-root; all of its classes are used.
    Default: dataset and classes of the stage."""
    split: str | None = None
    """Split to evaluate on. Default: the stage's validation split."""
    train_split: str | None = None
    """Split that few-shot, knn and probe learn from. Default: the stage's training split."""
    classes: tuple[int, ...] | None = None
    """Numbers of the classes to evaluate on, as 0 1 2. Default: all, or those of the stage."""
    image_size: int | None = None
    """Resolution in pixels; the weights are adapted to it. Default: that of the weights."""
    crop: Literal["center", "resize"] | None = None
    """Crop the centre, or resize the whole image. Default: as the stage evaluates."""
    crop_fraction: float | None = None
    """Centre crop as a fraction of the shorter side. Default: as the stage evaluates."""
    real: Path | None = None
    """JSON file with several right labels per image, such as reassessed-imagenet's real.json."""
    batch: int = 64
    """Images in one forward pass. Another value is another evaluation: the last bits may differ."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network's forward pass."""
    knn: Knn = field(default_factory=Knn)
    """Settings of evaluator knn (k nearest neighbours)."""
    few_shot: FewShot = field(default_factory=FewShot)
    """Settings of evaluator few-shot (linear regression)."""
    probe: Probe = field(default_factory=Probe)
    """Settings of evaluator probe (logistic regression)."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation that is about to run."""

    protocol: Protocol
    candidate: Candidate
    dataset: Dataset
    real: tuple[frozenset[int], ...] | None
    recipe: str
    run: str
    place: Place
    fingerprint: str
    attempt: Attempt

    @property
    def done(self) -> bool:
        """Whether it is committed already."""
        return self.attempt.manifest is not None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by label; names of merged classes are joined by +."""
        return self.protocol.selection.class_names(self.dataset.classes)

    def lineage(self) -> Manifest:
        """Make the manifest without metrics and files, which the commit adds."""
        candidate = self.candidate
        return Manifest(
            format_version=FORMAT_VERSION,
            recipe=self.recipe,
            run=self.run,
            stage={"name": STAGE, **plain(asdict(self.protocol))},
            model=model_record(candidate.config),
            fingerprint=self.fingerprint,
            attempt=self.attempt.name,
            parent=candidate.parent,
            weights=MeasuredWeights(
                uri=candidate.uri,
                average=candidate.average,
                sha256=candidate.sha256,
                notes=candidate.notes,
            ),
            dataset=DatasetName(name=self.protocol.dataset, digest=self.dataset.digest),
            git_commit=git_commit(),
            versions=package_versions(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            step=candidate.step,
        )


def make_evaluation(command: Command[EvaluationOptions]) -> Evaluation:
    """Find the weights and the data, check that they fit, and whether it was done before.

    Raises:
        Mistake: one line.
        storage.errors.Unavailable: the storage does not answer.
    """
    options, place, own = command.options, command.place, command.own
    check_root(place)
    candidate = find_candidate(
        command.recipe,
        place,
        options,
        own,
        image_size=own.image_size,
        needs_head="classification" in own.evaluators,
    )
    protocol = _protocol(candidate, own)
    dataset = load_dataset(join(place.data_root, protocol.dataset))
    index = load_index(dataset, protocol.split)
    real = None
    if own.real:
        if not protocol.answers or not protocol.selection.everything:
            raise Mistake("--real needs evaluator classification and all classes of the dataset")
        real = read_real(own.real, index)
        protocol = replace(protocol, real_sha256=sha256_file(own.real))
    _check_data(protocol, dataset)
    if protocol.answers:
        _check_head(protocol, candidate, dataset)
    name = fingerprint(
        protocol,
        model=model_record(candidate.config),
        weights_sha256=candidate.sha256,
        dataset_digest=dataset.digest,
    )
    attempt = attempt_for(place.storage_root, options.run, STAGE, name, force=options.force)
    return Evaluation(
        protocol=protocol,
        candidate=candidate,
        dataset=dataset,
        real=real,
        recipe=options.recipe,
        run=options.run,
        place=place,
        fingerprint=name,
        attempt=attempt,
    )


def _protocol(candidate: Candidate, own: EvaluationOptions) -> Protocol:
    data, side = candidate.data, candidate.config.image_size
    if not isinstance(side, int):
        raise Mistake(f"{candidate.name} takes images of {side} pixels: only square ones are cut")
    selection = Selection()
    if own.classes is not None:
        selection = Selection(classes=own.classes)
    elif own.dataset is None:
        selection = val_selection(data)
    fraction = own.crop_fraction
    if not (own.dataset or data.dataset):
        raise Mistake(
            f"{candidate.uri} fits no stage, so nothing says which images to evaluate it on - give"
            " --dataset NAME, a folder under --place.data-root"
        )
    return Protocol(
        evaluators=own.evaluators,
        dataset=own.dataset or data.dataset,
        split=own.split or data.val_split,
        selection=selection,
        train_split=own.train_split or data.train_split,
        crop=replace(
            data.val_crop(side),
            kind=own.crop or data.eval_crop,
            resize_fraction=data.eval_fraction if fraction is None else fraction,
        ),
        knn=own.knn,
        few_shot=own.few_shot,
        probe=own.probe,
        batch=own.batch,
        precision=own.precision,
    )


def _check_data(protocol: Protocol, dataset: Dataset) -> None:
    splits = (protocol.split, protocol.train_split) if protocol.features else (protocol.split,)
    check_shards(dataset, splits)
    order_of(protocol.test_spec(dataset.uri), dataset)
    for spec in protocol.train_specs(dataset.uri):
        order_of(spec, dataset)
    if protocol.features and protocol.split == protocol.train_split:
        raise Mistake(
            f"{', '.join(protocol.evaluators)} would learn from the split they are evaluated on,"
            f" {protocol.split!r} - give another --split or --train-split"
        )


def _check_head(protocol: Protocol, candidate: Candidate, dataset: Dataset) -> None:
    classes = protocol.selection.num_classes(len(dataset.classes))
    advice = "measure its features instead: --evaluators few-shot knn probe"
    if candidate.head_reset:
        raise Mistake(
            f"{candidate.uri} has no head for this model ({candidate.head_reset}) - {advice}"
        )
    if classes != candidate.config.num_classes:
        raise Mistake(
            f"{candidate.name} has {candidate.config.num_classes} classes, but the selected data"
            f" of {dataset.uri} ({protocol.split}) has {classes} - choose --classes, or {advice}"
        )
