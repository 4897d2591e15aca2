"""Command lines that tyro makes from dataclasses: typed overrides, --help, one-line errors.

Arguments are read twice: first `--recipe` and `--config`, which decide the defaults of the others.
"""

import sys
from dataclasses import asdict, dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, NoReturn, Protocol, TypeVar, overload

import tyro
import yaml

from cluster.settings import Place
from pipelines.cli.parser import parse, parse_quietly, peek
from pipelines.cli.place import CONFIG, place_of, resolve_place
from pipelines.cli.redaction import redact
from pipelines.cli.short import Short
from pipelines.recipes import find_recipe
from pipelines.recipes.errors import Mistake
from pipelines.recipes.fingerprint import plain
from pipelines.recipes.general import GENERAL, GENERAL_RECIPES
from pipelines.recipes.stage import Recipe, Stage

Own = TypeVar("Own")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every script that works on a recipe."""

    recipe: str
    """Recipe: its stages, with model, data, loss and optimizer of each. finetune.py with --init or
    --data takes the recipe called finetune by default."""
    run: str
    """Name of the run, a folder under --place.storage-root where stages find their parents. With
    --data and the recipe finetune, augreg-finetune or probe, the default is the dataset's name."""
    config: Path = CONFIG
    """YAML file with the deployment settings (--place.*)."""
    print_config: bool = False
    """Print the resolved configuration as YAML and exit."""
    force: bool = False
    """Run again although the result is committed: make a new attempt and keep the old one."""
    parent: str | None = None
    """Where a stage has several committed attempts, the one to use, by its fingerprint or name: of
    the stage before when training; in evaluate.py, predict.py and export.py of the stage itself."""

    def __post_init__(self) -> None:
        check_run(self.run)


class Adoption(Protocol):
    """What short options mean, for scripts that train one stage (`pipelines.lineage.adoption`)."""

    def before(self, stage: Stage, short: Short, argv: list[str]) -> tuple[Stage, tuple[str, ...]]:
        """Return the stage that the long options change, and lines for the user."""
        ...

    def after(
        self, before: Stage, stage: Stage, short: Short, place: Place, given: set[str]
    ) -> Stage:
        """Return the stage with what follows from all options; those `given` are kept."""
        ...


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """No options of its own, for scripts that need none."""


@dataclass(frozen=True, kw_only=True)
class Command(Generic[Own]):
    """A resolved command line."""

    options: Options
    recipe: Recipe
    """The recipe, overrides applied."""
    stages: tuple[Stage, ...]
    """Stages to run: one of the recipe's, or all."""
    place: Place
    """Deployment settings, with absolute roots."""
    own: Own
    """The script's own options."""
    notes: tuple[str, ...] = ()
    """What was inferred from a checkpoint, for the user."""

    def as_yaml(self) -> str:
        """Return the resolved configuration, for --print-config."""
        shown = {
            "recipe": self.options.recipe,
            "run": self.options.run,
            "stages": {stage.name: asdict(stage) for stage in self.stages},
            "place": asdict(self.place) | {"mlflow_uri": redact(self.place.mlflow_uri)},
        }
        return yaml.dump(plain(shown), Dumper=yaml.SafeDumper, sort_keys=False)


@overload
def read_command(
    argv: list[str],
    *,
    prog: str,
    description: str,
    stage_name: str | None = None,
    adoption: Adoption | None = None,
) -> Command[NoOptions]: ...


@overload
def read_command(
    argv: list[str], *, prog: str, description: str, own: Own, stage_name: str | None = None
) -> Command[Own]: ...


def read_command(
    argv: list[str],
    *,
    prog: str,
    description: str,
    own: Any = NoOptions(),  # frozen and empty
    stage_name: str | None = None,
    adoption: Adoption | None = None,
) -> Command[Any]:
    """Parse the arguments of a script that works on a recipe.

    Args:
        argv: arguments without the script's name.
        prog: name of the script.
        description: for --help.
        own: the script's own options: a dataclass instance that holds their defaults.
        stage_name: the one stage it works on, overridden by `--stage.FIELD`; None for all stages of
            the recipe, each overridden by `--NAME.FIELD`. Deployment settings are overridden by
            `--place.FIELD`.
        adoption: gives the script the short options (`Short`) for its one stage.

    Raises:
        Mistake: one line for whatever is wrong with the arguments.
        SystemExit: after --help, --help-all and --print-config.
    """
    bases = (Options, *([Short] if adoption else []), type(own))
    brief = bool({"-h", "--help"} & set(argv))
    argv = ["--help" if word == "--help-all" else word for word in argv]
    first = peek(argv, prog, config=CONFIG, recipe=None)
    place = place_of(Path(first.config))
    short = _short(argv, prog) if adoption else Short()
    own_data = short.init is not None or short.data is not None
    general = own_data and stage_name == GENERAL.stages[0].name
    recipe = find_recipe(first.recipe or (GENERAL.name if general else place.recipe))
    stages = (
        {stage.name: stage for stage in recipe.stages}
        if stage_name is None
        else {"stage": recipe.stage(stage_name)}
    )
    if brief:
        _help(bases, own, recipe.name, prog=prog, description=description)
    before, notes = stages.get("stage"), ()
    if adoption and before and "--help" not in argv:
        stages["stage"], notes = adoption.before(before, short, argv)
    members = [
        (
            name,
            Annotated[
                Stage,
                tyro.conf.arg(help=f"Model, data, loss and optimizer of stage {stage.name!r}."),
            ],
        )
        for name, stage in stages.items()
    ]
    place_help = "Deployment settings, as in ray_config.yaml."
    shape = make_dataclass(
        "Arguments",
        [*members, ("place", Annotated[Place, tyro.conf.arg(help=place_help)]), *_hidden(own)],
        bases=bases,
        frozen=True,
        kw_only=True,
    )
    defaults = {field.name: getattr(own, field.name) for field in fields(own)}
    run = short.name_of_data if recipe in GENERAL_RECIPES and short.data else recipe.name
    default = shape(recipe=recipe.name, run=run, place=place, **stages, **defaults)
    parsed: Any = parse(shape, argv, prog=prog, description=description, default=default)
    chosen = {name: getattr(parsed, name) for name in stages}
    for name, stage in chosen.items():
        if stage.name != stages[name].name:
            raise Mistake(f"--{name}.name cannot be changed: stages are looked up by name")
    place = resolve_place(parsed.place, cwd=Path.cwd())
    if adoption and before:
        given = {
            word.partition("=")[0][8:].replace("_", "-") for word in argv if word[:8] == "--stage."
        }
        chosen["stage"] = adoption.after(before, chosen["stage"], short, place, given)
    known = {stage.name: stage for stage in chosen.values()}
    command = Command(
        options=parsed,
        recipe=Recipe(name=recipe.name, stages=tuple(known.get(s.name, s) for s in recipe.stages)),
        stages=tuple(chosen.values()),
        place=parsed.place,
        own=replace(own, **{name: getattr(parsed, name) for name in defaults}),
        notes=notes,
    )
    if command.options.print_config:
        print(command.as_yaml(), end="")
        sys.exit(0)
    return replace(command, place=place)


def _help(
    bases: tuple[type, ...], own: object, recipe: str, *, prog: str, description: str
) -> NoReturn:
    """Print the options that fit on one screen, and exit."""
    shape = make_dataclass("Arguments", _hidden(own), bases=bases, frozen=True, kw_only=True)
    default = shape(recipe=recipe, run=recipe, **vars(own))
    more = "All options of model, data, optimizer and deployment: --help-all."
    parse(shape, ["--help"], prog=prog, description=f"{description}\n\n{more}", default=default)
    raise AssertionError("--help exits")


def _hidden(own: object) -> list[tuple[str, Any, Any]]:
    """Take --force away from scripts that make no attempts at a stage."""
    refuses = getattr(own, "TAKES_NO_FORCE", False)
    return [("force", tyro.conf.Suppress[bool], False)] if refuses else []


def _short(argv: list[str], prog: str) -> Short:
    """Read only the short options; the others are not known yet."""
    words = [word for word in argv if word != "--help"]
    return parse_quietly(
        prog, lambda: tyro.cli(Short, args=words, prog=prog, return_unknown_args=True)[0]
    )


def read_options(
    own: type[Own], argv: list[str], *, prog: str, description: str
) -> tuple[Own, Place]:
    """Parse the arguments of a script that takes its own options and `--place.FIELD`, no recipe.

    Raises:
        Mistake: one line for whatever is wrong with the arguments.
        SystemExit: after --help.
    """
    place = place_of(Path(peek(argv, prog, config=CONFIG).config))
    shape = make_dataclass(
        "Arguments", [("place", Place, place)], bases=(own,), frozen=True, kw_only=True
    )
    parsed: Any = parse(shape, argv, prog=prog, description=description)
    return parsed, resolve_place(parsed.place, cwd=Path.cwd())


def check_run(name: str) -> None:
    """Raise Mistake for a name that is no folder of its own under the storage root."""
    if not name.strip() or name.startswith(".") or "/" in name or not name.isprintable():
        raise Mistake(
            f"--run {name!r}: a run is one folder under storage_root - wanted a name that is not"
            " empty, does not begin with a dot and holds no '/'"
        )


def program_name() -> str:
    """Return the script's file name, as the user called it."""
    return Path(sys.argv[0]).name
