"""Command lines that tyro makes from dataclasses: typed overrides, --help, one-line errors.

Arguments are read twice: first `--recipe` and `--config`, which decide the defaults of the others.
"""

import sys
from collections.abc import Mapping
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol, TypeVar, overload

import tyro

from cluster.settings import Place
from pipelines.cli.options import Command, NoOptions, Options
from pipelines.cli.parser import parse, parse_quietly, peek
from pipelines.cli.place import CONFIG, place_of, resolve_place
from pipelines.cli.short import Short
from pipelines.recipes import find_recipe
from pipelines.recipes.errors import Mistake
from pipelines.recipes.general import GENERAL, GENERAL_RECIPES
from pipelines.recipes.stage import Recipe, Stage

Own = TypeVar("Own")
_NO_OPTIONS = NoOptions()  # frozen and empty


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
    own: Any = _NO_OPTIONS,
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
    shape = _arguments(bases, own, stages)
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
        chosen["stage"] = adoption.after(before, chosen["stage"], short, place, _given(argv))
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


def _arguments(bases: tuple[type, ...], own: object, stages: Mapping[str, Stage]) -> type:
    """The dataclass of all arguments: those of the bases, of each stage and of the place."""
    members = [
        (name, _explained(Stage, f"Model, data, loss and optimizer of stage {stage.name!r}."))
        for name, stage in stages.items()
    ]
    place = ("place", _explained(Place, "Deployment settings, as in ray_config.yaml."))
    names = [*members, place, *_hidden(own)]
    return make_dataclass("Arguments", names, bases=bases, frozen=True, kw_only=True)


def _explained(kind: type, text: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=text)]


def _given(argv: list[str]) -> set[str]:
    """The fields of the stage that the command line sets itself."""
    return {word.partition("=")[0][8:].replace("_", "-") for word in argv if word[:8] == "--stage."}


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


def program_name() -> str:
    """Return the script's file name, as the user called it."""
    return Path(sys.argv[0]).name
