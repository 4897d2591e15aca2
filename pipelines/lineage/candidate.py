"""The weights that a command line names, to measure or export: a stage's, or a public checkpoint's.

Where a stage kept a Polyak average, the average is taken unless told otherwise: a recipe keeps one
to be used, and the paper's headline numbers are of averages. In a stage's own manifest
`val/accuracy` is of the live weights, `val_ema/accuracy` of the average.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import Tensor

from cluster.settings import Place
from pipelines.cli.options import Options
from pipelines.lineage.attempts import (
    Attempt,
    choose_parent,
    committed_attempts,
    fingerprint_in_recipe,
    parent_of,
)
from pipelines.lineage.manifest import AVERAGE, WEIGHTS, Parent
from pipelines.lineage.source import Source, init_location, open_source
from pipelines.recipes.data import Data
from pipelines.recipes.errors import Mistake
from pipelines.recipes.general import GENERAL_RECIPES
from pipelines.recipes.stage import Recipe, Stage
from storage.uri import join
from vit import Config, adapt_state_dict, checkpoint_class_names, tensor_digest
from vit.errors import BadModel

Average = Literal["auto", "ema", "live"]


@dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    """Options of every script that takes the weights of a stage, or others in their place."""

    only: str | None = None
    """Stage whose weights to take. Default: the last stage of the recipe."""
    weights: str | None = None
    """Other weights to take, a path, s3://, hf://ORG/NAME or timm://NAME: a stage's attempt, or a
    public checkpoint. A checkpoint that does not fit the model of that stage is read as the model
    that its own files describe."""
    average: Average = "auto"
    """Weights of a stage: its Polyak average (ema) or the live ones; auto is ema if it exists."""
    init_image_size: int | None = None
    """Resolution in pixels of a checkpoint whose files do not record it."""
    heads: int | None = None
    """Attention heads of a checkpoint whose files do not record them."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Weights to use, and the model that they go into."""

    source: Source
    """The weights; those of a stage are not read yet."""
    name: str
    """For people: `finetune 0123456789abcdef`, or the checkpoint's file."""
    config: Config
    """The model they go into."""
    data: Data
    """What the stage was trained and evaluated on."""
    step: int
    """Steps they were trained for, 0 where nobody knows."""
    sha256: str
    """Of their content."""
    average: Literal["ema", "live"]
    parent: Parent | None
    """The stage, as a child remembers its parent; None for a public checkpoint."""
    head_reset: str | None = None
    """Why the head is no trained one."""
    imported: Mapping[str, Tensor] | None = None
    """The tensors of a public checkpoint, which is read to be understood."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes, where a public checkpoint's files say them for this head."""
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What they are, for people: an average is not what training ended with."""
        return f"{self.name}, averaged" if self.average == "ema" else self.name

    @property
    def uri(self) -> str:
        """Where the weights lie."""
        return self.source.uri

    def tensors(self) -> dict[str, Tensor]:
        """The weights, as `config` wants them."""
        if self.imported is not None:
            return dict(self.imported)
        tensors = self.source.tensors(name="weights_ema" if self.average == "ema" else "weights")
        return adapt_state_dict(tensors, self.source.committed.config(), self.config)[0]


def find_candidate(
    recipe: Recipe,
    place: Place,
    options: Options,
    own: WeightsOptions,
    *,
    image_size: int | None = None,
    needs_head: bool = True,
) -> Candidate:
    """The weights that a command line names.

    Args:
        recipe: whose stage, or of whose shape a public checkpoint is.
        place: where its runs lie.
        options: `run`, and `parent` where it holds several attempts.
        own: which stage, or which other weights.
        image_size: resolution to adapt them to.
        needs_head: whether a public checkpoint with another head than the stage's does not fit it.

    A public checkpoint that does not fit the stage's model comes in its own.

    Raises:
        Mistake: there are none; says what to do.
        vit.BadCheckpoint: a checkpoint's own model cannot be told from its files.
    """
    stage = recipe.stage(own.only) if own.only else recipe.stages[-1]
    if own.weights is None:
        looked_in = join(place.storage_root, options.run, stage.name)
        attempt = choose_parent(
            committed_attempts(place.storage_root, options.run, stage.name),
            from_recipe=fingerprint_in_recipe(recipe, stage.name, place),
            requested=options.parent,
            looked_in=looked_in,
            command=_training_command(recipe, stage, options.run),
        )
        return _committed(attempt, own.average, image_size)
    with open_source(init_location(own.weights)) as source:
        if source.manifest is not None:
            attempt = Attempt(source.name, source.uri, source.manifest)
            return _committed(attempt, own.average, image_size)
        fitted: Candidate | None = None
        with suppress(BadModel):  # it is another model's, or cannot be read: said below
            fitted = _imported(source, stage, own, image_size)
        if fitted is not None and not (needs_head and fitted.head_reset):
            return fitted
        try:
            return _with_own_model(source, stage, own, image_size)
        except BadModel as error:
            if fitted is not None:  # its head alone is another's, of which the caller tells
                return fitted
            # in the words of these scripts
            said = str(error)
            for name in ("model.heads", "init-image-size"):
                said = said.replace(f"--stage.{name}", f"--{name.rpartition('.')[2]}")
            raise BadModel(said.replace("--stage.", f"--{stage.name}.")) from None


def _training_command(recipe: Recipe, stage: Stage, run: str) -> str:
    """What trains the stage; a run of another name than the recipe's is of one's own data."""
    named = f"pipelines/{stage.name}.py --recipe {recipe.name} --run {run}"
    own = f"pipelines/finetune.py --init CHECKPOINT --data {run}"
    if recipe.name in [each.name for each in GENERAL_RECIPES]:
        return own
    return named if run == recipe.name else f"{own}, or {named}"


def _committed(attempt: Attempt, average: Average, image_size: int | None) -> Candidate:
    manifest = attempt.manifest
    assert manifest is not None
    files = manifest.files
    if WEIGHTS not in files:
        raise Mistake(f"{attempt.uri} holds no weights: it is no training stage's")
    if average == "ema" and AVERAGE not in files:
        raise Mistake(
            f"{attempt.uri} holds no average: its stage has no optim.ema_decay - take --average"
            " live"
        )
    has_average = AVERAGE in files
    chosen = ("ema" if has_average else "live") if average == "auto" else average
    file = AVERAGE if chosen == "ema" else WEIGHTS
    config = manifest.config()
    return Candidate(
        source=Source(uri=attempt.uri, manifest=manifest),
        name=f"{manifest.stage_name} {attempt.name}",
        config=replace(config, image_size=image_size or config.image_size),
        data=manifest.data(),
        step=manifest.step,
        sha256=files[file].sha256,
        average=chosen,
        parent=parent_of(attempt),
    )


def _imported(
    source: Source, stage: Stage, own: WeightsOptions, image_size: int | None
) -> Candidate:
    if own.average == "ema":
        raise Mistake(
            f"--average ema: {source.uri} is no committed stage, it has no average beside it"
        )
    config = replace(stage.model, image_size=image_size or stage.image_size)
    shape = replace(
        stage,
        model=config,
        init_image_size=own.init_image_size or stage.init_image_size,
        reset_head=False,
    )
    tensors, notes = source.start_weights(shape)
    resets = [note for note in notes if note.startswith("head ") and note.endswith(": reset")]
    names = checkpoint_class_names(source.checkpoint) if source.checkpoint else None
    named = names is not None and len(names) == config.num_classes and not resets
    return Candidate(
        source=Source(uri=source.uri),
        name=source.name,
        config=config,
        data=stage.data,
        step=0,
        sha256=tensor_digest(tensors),
        average="live",
        parent=None,
        head_reset=", ".join(resets) or None,
        imported=tensors,
        class_names=names if named else None,
        notes=notes,
    )


def _with_own_model(
    source: Source, stage: Stage, own: WeightsOptions, image_size: int | None
) -> Candidate:
    """A public checkpoint in its own model; nothing says which data its classes are of."""
    found = source.inferred(image_size=own.init_image_size, heads=own.heads)
    data = Data(dataset="").evaluated_by(found.crop)
    shape = replace(stage, model=found.config, data=data, train="all")
    candidate = _imported(source, shape, own, image_size)
    by = found.inferred_from["crop"] if found.crop else "default"
    more = (note for note in found.notes if note not in candidate.notes)
    first = f"model of {source.uri}; crop {data.preprocessing} ({by})"
    return replace(candidate, notes=(first, *more, *candidate.notes))


def model_record(config: Config) -> dict[str, Any]:
    """The model as plain values, for a fingerprint and a manifest."""
    return json.loads(json.dumps(asdict(config)))
