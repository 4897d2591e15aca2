"""Recipes by name: what `--recipe` takes. A recipe is a Python value; derive one by `replace`."""

from pipelines.recipes.digits import DIGITS, DIGITS_SCRATCH
from pipelines.stage import Recipe

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (DIGITS, DIGITS_SCRATCH)}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r} - there are: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
