"""The command line, made from the dataclasses by tyro: typed overrides, --help, one-line errors.

Read twice: `--recipe` and `--config` first, because they decide the defaults of all the others.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
import yaml

from cluster.settings import Place
from pipelines.cli.place import CONFIG, place_of
from pipelines.cli.redaction import redact
from pipelines.recipes import find_recipe
from pipelines.recipes.errors import Mistake
from pipelines.recipes.stage import Recipe, Stage, plain

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every entry script takes."""

    recipe: str
    """Recipe: the stages and their science."""
    run: str
    """Name of the run; its stages find each other under <storage_root>/<run>."""
    config: Path = CONFIG
    """Deployment settings."""
    print_config: bool = False
    """Print the resolved configuration and stop."""
    force: bool = False
    """Train although it is committed already: a new attempt beside the old one."""
    parent: str | None = None
    """Fingerprint of the parent to start from, where the run holds several."""


@dataclass(frozen=True)
class Command:
    """A resolved command line."""

    options: Options
    recipe: Recipe
    """The recipe with the overrides in it."""
    stages: tuple[Stage, ...]
    """What to run: one stage, or all of the recipe's."""
    place: Place
    more: Mapping[str, Any] = field(default_factory=dict)
    """What a script takes besides, by name."""

    def as_yaml(self) -> str:
        """The resolved whole, for --print-config."""
        shown = {
            "recipe": self.options.recipe,
            "run": self.options.run,
            "stages": {stage.name: asdict(stage) for stage in self.stages},
            "place": asdict(self.place) | {"mlflow_uri": redact(self.place.mlflow_uri)},
        }
        return yaml.dump(plain(shown), Dumper=yaml.SafeDumper, sort_keys=False)


def read_command(
    argv: list[str],
    *,
    stage_name: str | None,
    prog: str,
    description: str,
    more: Mapping[str, tuple[Any, Any, str]] | None = None,
) -> Command:
    """Parse a script's arguments; `stage_name` None means all stages of the recipe.

    One stage is overridden by `--stage.FIELD`, all of them by `--NAME.FIELD`, the deployment by
    `--place.FIELD`. `more` are arguments of this script alone: name -> (type, default, meaning).

    Raises:
        Mistake: one line for whatever is wrong with them.
        SystemExit: after --help and --print-config.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--config", type=Path, default=CONFIG)
    early.add_argument("--recipe", default=None)
    first = parse_quietly(prog, lambda: early.parse_known_args(argv)[0])
    place = place_of(first.config)
    recipe = find_recipe(first.recipe or place.recipe)
    stages = (
        {stage.name: stage for stage in recipe.stages}
        if stage_name is None
        else {"stage": recipe.stage(stage_name)}
    )
    shape = _arguments(recipe, stages, place, more or {})
    parsed: Any = parse_quietly(
        prog,
        lambda: tyro.cli(
            shape,
            args=argv,
            prog=prog,
            description=description,
            config=(tyro.conf.AvoidSubcommands,),
        ),
    )
    chosen = {name: getattr(parsed, name) for name in stages}
    for name, stage in chosen.items():
        if stage.name != stages[name].name:
            raise Mistake(f"--{name}.name cannot be changed: stages are found by their name")
    known = {stage.name: stage for stage in chosen.values()}
    command = Command(
        options=parsed,
        recipe=Recipe(name=recipe.name, stages=tuple(known.get(s.name, s) for s in recipe.stages)),
        stages=tuple(chosen.values()),
        place=parsed.place,
        more={name: getattr(parsed, name) for name in more or {}},
    )
    if command.options.print_config:
        print(command.as_yaml(), end="")
        sys.exit(0)
    return command


def _arguments(
    recipe: Recipe,
    stages: dict[str, Stage],
    place: Place,
    more: Mapping[str, tuple[Any, Any, str]],
) -> type:
    """Options, plus a field for every stage, one for the place, and the script's own."""

    def member(name: str, kind: type, default: Any, meaning: str) -> tuple[str, Any, Any]:
        annotated: Any = Annotated[kind, tyro.conf.arg(help=meaning)]
        return name, annotated, field(default=default)

    members = [
        member("recipe", str, recipe.name, "Recipe: the stages and their science."),
        member("run", str, recipe.name, "Name of the run: where its stages find each other."),
    ]
    for name, stage in stages.items():
        members.append(member(name, Stage, stage, f"The science of stage {stage.name!r}."))
    members.append(member("place", Place, place, "The deployment, as in ray_config.yaml."))
    members += [member(name, *described) for name, described in more.items()]
    return make_dataclass("Arguments", members, bases=(Options,), frozen=True, kw_only=True)


def parse_quietly(prog: str, parse: Callable[[], T]) -> T:
    """Run a parser; turn its boxed message into one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except argparse.ArgumentError as error:
        raise Mistake(str(error)) from None
    except SystemExit as stop:
        if not stop.code:
            raise
        raise Mistake(f"{one_line(said.getvalue())} - see {prog} --help") from None


def one_line(message: str) -> str:
    """What a message of tyro's says is wrong, and the options it suggests.

    It comes as sections between rules: in a box, or, where the terminal cannot draw one, as plain
    lines under a title.
    """
    boxed = "╭" in message
    sections: list[list[str]] = [[]]
    for line in message.splitlines():
        text = line.strip("│ ")
        if text and not line.startswith(("╭", "╰")):
            if set(text) <= {"─", "-"}:
                sections.append([])
            else:
                sections[-1].append(text)
    first = 0 if boxed or len(sections) == 1 else 1
    said = " ".join(sections[first])
    hints = [line.split()[0] for lines in sections[first + 1 :] for line in lines]
    similar = [hint for hint in hints if hint.startswith("--")]
    if similar and "Unrecognized" in said:
        said += f" - perhaps {' or '.join(similar[:2])}"
    return said


def program_name() -> str:
    """The script as the user called it."""
    return Path(sys.argv[0]).name
