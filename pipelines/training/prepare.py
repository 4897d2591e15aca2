"""From a command line to a plan that can train: every check that needs no cluster, in seconds.

The start of a stage, stated once:
  1. the attempt is committed            -> it is done (unless --force)
  2. the attempt has resume state        -> continue it (`worker.start`)
  3. the parent has committed weights    -> adapt them and start
  4. `init` names a checkpoint           -> import it, adapt it and start
  5. no parent is declared               -> fresh weights
  6. else one error that names the place looked in and the command that makes the weights
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from cluster.settings import Place
from cluster.zero import zero_config
from pipelines.cli.options import Command
from pipelines.lineage.attempts import (
    Attempt,
    attempt_for,
    choose_parent,
    committed_attempts,
    fingerprint_in_recipe,
    parent_of,
)
from pipelines.lineage.manifest import Checkpoint, DatasetName, Manifest
from pipelines.lineage.source import Source, init_location, open_source
from pipelines.lineage.versions import git_commit, package_versions
from pipelines.recipes.batches import batch_of, counts_of
from pipelines.recipes.errors import Mistake
from pipelines.recipes.fingerprint import FORMAT_VERSION, fingerprint, plain
from pipelines.recipes.stage import Stage
from pipelines.recipes.streams import train_spec, val_spec
from storage.columns import order_of
from storage.dataset import Dataset, load_dataset
from storage.order import epochs_at
from storage.uri import join
from storage.verify import check_shards
from vit import BadCheckpoint


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One stage attempt, resolved: where it goes, what it starts from, what it reads."""

    stage: Stage
    run: str
    recipe: str
    attempt: Attempt
    fingerprint: str
    parent: Attempt | None
    start_uri: str | None
    """Weights to start from: the parent's, or those `init` names."""
    init: Checkpoint | None
    """The checkpoint that `stage.init` names."""
    dataset: Dataset
    counts: tuple[int, ...]
    """The numbers of workers that may train, ascending."""
    steps_per_epoch: float
    train_images: int
    """Images of an epoch, 0 for a stage of no steps."""
    val_images: int

    @property
    def done(self) -> bool:
        """Whether the attempt is committed already."""
        return self.attempt.manifest is not None

    def lineage(self) -> Manifest:
        """The manifest as far as it is known before training."""
        return Manifest(
            format_version=FORMAT_VERSION,
            recipe=self.recipe,
            run=self.run,
            stage=plain(asdict(self.stage)),
            fingerprint=self.fingerprint,
            attempt=self.attempt.name,
            parent=parent_of(self.parent) if self.parent else None,
            init=self.init,
            dataset=DatasetName(name=self.stage.data.dataset, digest=self.dataset.digest),
            git_commit=git_commit(),
            versions=package_versions(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )


@dataclass(frozen=True)
class Checked:
    """What checking a stage found out."""

    dataset: Dataset
    counts: tuple[int, ...]
    """The numbers of workers that may train, ascending."""
    init: Checkpoint | None
    """The checkpoint that `stage.init` names."""
    val_images: int


def check_stage(stage: Stage, place: Place) -> Checked:
    """Everything about a stage that can be known before its parent is there.

    Raises:
        Mistake: one line - the batch cannot be split, the data is missing, empty, of one class
            that nobody asked for or of another number of classes, a feature is not there.
    """
    counts = counts_of(stage, place)
    for workers in counts:
        plan = batch_of(stage, place, workers)
        zero_config(place.zero, plan, precision=stage.precision, clip_norm=None)
    init = None
    if stage.init is not None:
        with open_source(init_location(stage.init)) as source:
            source.start_weights(stage)  # adapted once here, before a GPU is asked for
            init = Checkpoint(
                uri=source.uri, sha256=source.digest(), inferred_from=_inferred(source, stage)
            )
    dataset = load_dataset(join(place.data_root, stage.data.dataset))
    _check_val_split(stage, dataset)
    check_shards(dataset, (stage.data.train_split, stage.data.val_split))
    classes = stage.data.selection.num_classes(len(dataset.classes))
    chosen = stage.data.selection
    learns = stage.steps and stage.objective == "classify"
    if classes == 1 and learns and chosen.classes is None and chosen.labels is None:
        raise Mistake(
            f"stage {stage.name}: {dataset.uri} has one class alone, {dataset.classes[0]!r}, and"
            " nothing to tell apart - pack the folder that holds the folders of the classes, or"
            " train on it all the same by --stage.data.selection.classes 0"
        )
    if classes != stage.model.num_classes and stage.objective == "classify":
        raise Mistake(
            f"stage {stage.name}: model.num_classes is {stage.model.num_classes}, but the selected"
            f" data of {dataset.uri} has {classes} classes - set --stage.model.num-classes"
            f" {classes} (--{stage.name}.model.num-classes for scripts of several stages)"
        )
    val_images = order_of(val_spec(stage, dataset.uri), dataset).samples
    if stage.steps:
        order_of(train_spec(stage, dataset.uri), dataset)
    return Checked(dataset, counts, init, val_images)


def _check_val_split(stage: Stage, dataset: Dataset) -> None:
    """Raise Mistake where there is nothing to evaluate on, with the two ways to get it."""
    data = stage.data
    if data.val_split in dataset.splits or data.train_split not in dataset.splits:
        return
    tenth = max(1, dataset.samples(data.train_split) // 10)
    raise Mistake(
        f"stage {stage.name}: {dataset.uri} has no split {data.val_split!r} to evaluate on, only"
        f" {', '.join(sorted(dataset.splits))} - pack it with one, or hold images of the training"
        f" split out: --stage.data.val-split {data.train_split} --stage.data.val-selection.samples"
        f" {tenth} --stage.data.selection.skip {tenth}"
    )


def _inferred(source: Source, stage: Stage) -> dict[str, str]:
    model = stage.model
    try:
        found = source.inferred(
            heads=getattr(model, "heads", None),
            pool=getattr(model, "pool", None),
            image_size=stage.init_image_size,
        )
    except BadCheckpoint:  # it fits into this model and leaves open which one was its own
        return {}
    by = dict(found.inferred_from)
    if found.crop != stage.data.preprocessing:  # the stage says otherwise
        del by["crop"]
    return by


def make_plan(stage: Stage, command: Command, checked: Checked) -> Plan:
    """Decide what to do for one checked stage (see the numbered cases on top).

    Raises:
        Mistake: one line.
        storage.errors.Unavailable: the storage does not answer.
    """
    place, run = command.place, command.options.run
    dataset = checked.dataset
    parent = _parent(stage, command)
    name = fingerprint(
        stage,
        dataset_digest=dataset.digest,
        parent=parent.fingerprint if parent else None,
        init=checked.init.sha256 if checked.init else None,
    )
    attempt = attempt_for(place.storage_root, run, stage.name, name, force=command.options.force)
    order = order_of(train_spec(stage, dataset.uri), dataset) if stage.steps else None
    one_step = epochs_at(order, 1) if order else 1.0
    return Plan(
        stage=stage,
        run=run,
        recipe=command.recipe.name,
        attempt=attempt,
        fingerprint=name,
        parent=parent,
        start_uri=parent.uri if parent else checked.init.uri if checked.init else None,
        init=checked.init,
        dataset=dataset,
        counts=checked.counts,
        steps_per_epoch=1 / one_step,
        train_images=order.samples if order else 0,
        val_images=checked.val_images,
    )


def _parent(stage: Stage, command: Command) -> Attempt | None:
    if stage.parent is None:
        return None
    options, root = command.options, command.place.storage_root
    script = f"pipelines/{stage.parent}.py --recipe {options.recipe} --run {options.run}"
    return choose_parent(
        committed_attempts(root, options.run, stage.parent),
        from_recipe=fingerprint_in_recipe(command.recipe, stage.parent, command.place),
        requested=options.parent,
        looked_in=join(root, options.run, stage.parent),
        command=script,
    )
