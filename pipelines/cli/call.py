"""What a call from Python works on: a `Command`, as a script makes it from its command line."""

from pathlib import Path
from typing import TypeVar

from cluster.settings import Place
from pipelines.cli.options import Command, Options
from pipelines.cli.place import CONFIG, place_of, resolve_place
from pipelines.recipes import find_recipe
from pipelines.recipes.stage import Recipe

Own = TypeVar("Own")


def resolved(place: Place | None) -> Place:
    """The place with absolute roots; None is `ray_config.yaml` of the working directory, if any.

    Raises:
        BadPlace: the file is wrong.
    """
    return resolve_place(place_of(CONFIG) if place is None else place, cwd=Path.cwd())


def command_of(
    recipe: Recipe | str,
    own: Own,
    *,
    run: str | None,
    place: Place | None,
    only: str | None = None,
    force: bool = False,
    parent: str | None = None,
) -> Command[Own]:
    """Make the command of a call.

    Args:
        recipe: a value, a name, or a file of recipes.
        own: options of the script whose work is done.
        run: name of the run; the recipe's where it is None.
        place: where; see `resolved`.
        only: the one stage to work on; all where it is None.
        force: make a new attempt beside what is committed.
        parent: fingerprint or name of the parent attempt, if the run has several.

    Raises:
        Mistake, BadPlace: one line.
    """
    if isinstance(recipe, str):
        recipe = find_recipe(recipe)
    return Command(
        options=Options(recipe=recipe.name, run=run or recipe.name, force=force, parent=parent),
        recipe=recipe,
        stages=recipe.stages if only is None else (recipe.stage(only),),
        place=resolved(place),
        own=own,
    )
