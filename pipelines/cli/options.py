"""Command lines that tyro makes from dataclasses: typed overrides, --help, one-line errors.

Arguments are read twice: first `--recipe` and `--config`, which decide the defaults of the others.
"""

import sys
from dataclasses import asdict, dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, overload

import tyro
import yaml

from cluster.settings import Place
from pipelines.cli.parser import parse, peek
from pipelines.cli.place import CONFIG, place_of, resolve_place
from pipelines.cli.redaction import redact
from pipelines.recipes import find_recipe
from pipelines.recipes.errors import Mistake
from pipelines.recipes.stage import Recipe, Stage, plain

Own = TypeVar("Own")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every script that works on a recipe."""

    recipe: str
    """Recipe to run: its stages, with model, data, loss and optimizer of each."""
    run: str
    """Name of the run. Results go to <storage_root>/<run>; stages find their parents there."""
    config: Path = CONFIG
    """YAML file with the deployment settings (--place.*)."""
    print_config: bool = False
    """Print the resolved configuration as YAML and exit."""
    force: bool = False
    """Run again although the result is committed: make a new attempt and keep the old one."""
    parent: str | None = None
    """Fingerprint or name of the parent attempt to start from, if the run has several."""

    def __post_init__(self) -> None:
        check_run(self.run)


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
    argv: list[str], *, prog: str, description: str, stage_name: str | None = None
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

    Raises:
        Mistake: one line for whatever is wrong with the arguments.
        SystemExit: after --help and --print-config.
    """
    first = peek(argv, prog, config=CONFIG, recipe=None)
    place = place_of(Path(first.config))
    recipe = find_recipe(first.recipe or place.recipe)
    stages = (
        {stage.name: stage for stage in recipe.stages}
        if stage_name is None
        else {"stage": recipe.stage(stage_name)}
    )
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
        [*members, ("place", Annotated[Place, tyro.conf.arg(help=place_help)])],
        bases=(Options, type(own)),
        frozen=True,
        kw_only=True,
    )
    defaults = {field.name: getattr(own, field.name) for field in fields(own)}
    default = shape(recipe=recipe.name, run=recipe.name, place=place, **stages, **defaults)
    parsed: Any = parse(shape, argv, prog=prog, description=description, default=default)
    chosen = {name: getattr(parsed, name) for name in stages}
    for name, stage in chosen.items():
        if stage.name != stages[name].name:
            raise Mistake(f"--{name}.name cannot be changed: stages are looked up by name")
    known = {stage.name: stage for stage in chosen.values()}
    command = Command(
        options=parsed,
        recipe=Recipe(name=recipe.name, stages=tuple(known.get(s.name, s) for s in recipe.stages)),
        stages=tuple(chosen.values()),
        place=parsed.place,
        own=replace(own, **{name: getattr(parsed, name) for name in defaults}),
    )
    if command.options.print_config:
        print(command.as_yaml(), end="")
        sys.exit(0)
    return replace(command, place=resolve_place(command.place, cwd=Path.cwd()))


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
