"""What a checkpoint and a packed dataset say about a stage: its model, classes and steps.

The short options `--init`, `--data`, `--epochs` are resolved here, before anything is hashed, so
that a stage is named by what it trains and not by how it was asked for.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from cluster.settings import Place
from pipelines.cli.call import resolved
from pipelines.cli.parser import peek
from pipelines.cli.short import Short
from pipelines.lineage.source import init_location, open_source
from pipelines.recipes import find_recipe
from pipelines.recipes.errors import Mistake
from pipelines.recipes.general import EPOCHS, GENERAL_RECIPES, WARMUP_SHARE
from pipelines.recipes.stage import Recipe, Stage
from pipelines.recipes.streams import train_spec
from storage.columns import order_of
from storage.dataset import load_dataset
from storage.order import epochs_at
from storage.uri import join
from vit import InferredConfig

_OPTIONS = {
    "init": "stage.init",
    "dataset": "stage.data.dataset",
    "heads": "stage.model.heads",
    "pool": "stage.model.pool",
    "pos_embed": "stage.model.pos-embed",
    "init_image_size": "stage.init-image-size",
}
_SHOWN = ("width", "depth", "heads", "mlp_dim", "patch_size", "image_size", "pool", "registers",
          "gelu", "norm_eps", "mean", "std")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Hints:
    """Long options that decide what the defaults of the others are."""

    init: str | None = None
    dataset: str | None = None
    heads: int | None = None
    pool: Any = None
    pos_embed: Any = None
    init_image_size: int | None = None


class FromCheckpointAndData:
    """The meaning of the short options, as `pipelines.cli.command_line.Adoption` asks for it."""

    def before(self, stage: Stage, short: Short, argv: list[str]) -> tuple[Stage, tuple[str, ...]]:
        """Return the stage that the long options change, and lines about what was inferred.

        In the recipes `finetune`, `augreg-finetune` and `probe` the model is the checkpoint's own,
        and so is the crop of evaluation. In every other recipe both are the recipe's.

        Raises:
            Mistake: there is no checkpoint or dataset, or the checkpoint leaves something open.
        """
        if not is_general(stage):
            return short.of(stage), ()
        hints = read_hints(argv)
        if not (short.data or hints.dataset):
            raise Mistake(
                f"recipe {_recipe_of(stage)} trains on your data: give --data NAME, the name of a"
                " packed dataset under place.data_root (pipelines/pack.py)"
            )
        return _of_checkpoint(replace(short, image_size=None).of(stage), short, hints)

    def after(
        self, before: Stage, stage: Stage, short: Short, place: Place, given: set[str]
    ) -> Stage:
        """Return the stage with the dataset's classes, and with its epochs as steps.

        Args:
            before: the recipe's stage.
            stage: with all options of the command line.
            short: the short ones.
            place: whose `data_root` holds the dataset.
            given: names of the stage's long options on the command line, which stay as they are.

        Raises:
            storage.errors.BadDataset: there is no such dataset.
        """
        general = is_general(before)
        if not general and short.data is None and short.epochs is None:
            return stage
        dataset = load_dataset(join(place.data_root, stage.data.dataset))
        labels = stage.objective == "classify" and (general or short.data is not None)
        if labels and "model.num-classes" not in given:
            classes = stage.data.selection.num_classes(len(dataset.classes))
            stage = replace(stage, model=replace(stage.model, num_classes=classes))
        epochs = short.epochs or (EPOCHS if general else None)
        if epochs is None:
            return stage
        per_epoch = 1 / epochs_at(order_of(train_spec(stage, dataset.uri), dataset), 1)
        changes: dict[str, Any] = {}
        if "steps" not in given:
            changes["steps"] = max(1, round(epochs * per_epoch))
        steps = changes.get("steps", stage.steps)
        if general and "optim.warmup-steps" not in given:
            changes["optim"] = replace(stage.optim, warmup_steps=int(WARMUP_SHARE * steps))
        if general and "eval-every-steps" not in given:
            evaluations = max(1, round(steps / per_epoch))
            changes["eval_every_steps"] = max(1, -(-steps // evaluations))
        return replace(stage, **changes)


def adopted(
    recipe: Recipe | str, short: Short, *, only: str | None = None, place: Place | None = None
) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe with what short options mean for one stage, and lines for the user.

    Args:
        recipe: a value, a name, or a file of recipes.
        short: checkpoint, dataset, epochs, batch, learning rate, image size.
        only: name of the stage. Default: the last one.
        place: whose `data_root` holds the dataset. Default: `ray_config.yaml` in the working
            directory, if any.

    Raises:
        Mistake, storage.errors.BadDataset: as of the command line.
    """
    if isinstance(recipe, str):
        recipe = find_recipe(recipe)
    before = recipe.stage(only) if only else recipe.stages[-1]
    meaning = FromCheckpointAndData()
    stage, notes = meaning.before(before, short, [])
    stage = meaning.after(before, stage, short, resolved(place), set())
    stages = tuple(stage if each.name == stage.name else each for each in recipe.stages)
    return replace(recipe, stages=stages), notes


def read_hints(argv: list[str]) -> Hints:
    """Read the hints from a command line. A text in place of a number is None: parsing names it."""
    names = {field.name: _OPTIONS[field.name] for field in fields(Hints)}
    words = vars(peek(argv, "", **dict.fromkeys(names.values())))
    found = {name: words[option.replace("-", "_")] for name, option in names.items()}
    for name in ("heads", "init_image_size"):
        found[name] = int(found[name]) if str(found[name]).isdecimal() else None
    return Hints(**found)


def is_general(stage: Stage) -> bool:
    """Whether a stage is that of a general recipe, as it stands there."""
    return any(stage == recipe.stages[0] for recipe in GENERAL_RECIPES)


def _recipe_of(stage: Stage) -> str:
    """Name of the general recipe that trains the same part by the same optimizer."""
    wanted = (stage.train, stage.optim.name)
    firsts = ((each.name, each.stages[0]) for each in GENERAL_RECIPES)
    return next(name for name, first in firsts if (first.train, first.optim.name) == wanted)


def _of_checkpoint(stage: Stage, short: Short, hints: Hints) -> tuple[Stage, tuple[str, ...]]:
    init = hints.init or short.init
    if init is None:
        raise Mistake(
            f"recipe {_recipe_of(stage)} starts from a checkpoint: give --init and a file, a"
            " folder, s3://..., hf://ORG/NAME or timm://NAME"
        )
    with open_source(init_location(init)) as source:
        found = source.inferred(
            heads=hints.heads,
            pool=hints.pool,
            pos_embed=hints.pos_embed,
            image_size=hints.init_image_size,
        )
    model = found.config
    if short.image_size is not None:
        model = replace(model, image_size=short.image_size)
    lines = (f"model of {source.uri}", *_by_source(found), *found.notes)
    data = stage.data.evaluated_by(found.crop)
    return replace(stage, init=source.uri, parent=None, model=model, data=data), lines


def _by_source(found: InferredConfig) -> Sequence[str]:
    """A line for each place that fields are known from.

    The usual fields are always there, others where they are not at their default.
    """
    special = [
        each.name
        for each in fields(found.config)
        if each.name not in (*_SHOWN, "num_classes")
        and getattr(found.config, each.name) != each.default
    ]
    values = {name: getattr(found.config, name, None) for name in (*_SHOWN, *special)}
    values |= {"mean": found.mean, "std": found.std, "crop": found.crop and str(found.crop)}
    by: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in values.items():
        if value is not None:
            text = " ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
            by[found.inferred_from.get(name, "default")].append(f"{name} {text}")
    return [f"  {', '.join(known)} ({place})" for place, known in by.items()]
