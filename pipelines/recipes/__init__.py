"""Recipes by name: what `--recipe` takes. A recipe is a Python value; derive one by `replace`.

The paper's rows fine-tune on ImageNet; `ROW-to-TASK` fine-tunes the same weights on another task.
"""

from pipelines.recipes.deit3 import DEIT3
from pipelines.recipes.digits import DIGITS, DIGITS_SCRATCH
from pipelines.recipes.errors import Mistake
from pipelines.recipes.files import is_file, read_recipe
from pipelines.recipes.general import GENERAL_RECIPES
from pipelines.recipes.paper import BASELINE, BASELINE_300, PAPER, TASKS, paper_recipe
from pipelines.recipes.stage import Recipe
from pipelines.recipes.without_labels import WITHOUT_LABELS

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *GENERAL_RECIPES,
        DIGITS,
        DIGITS_SCRATCH,
        BASELINE,
        BASELINE_300,
        *PAPER.values(),
        *WITHOUT_LABELS,
        *DEIT3,
    )
}
TRANSFER_TASKS = tuple(name for name, task in TASKS.items() if task.classes)


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, or of a file (`pipelines.recipes.files`).

    Raises:
        Mistake: there is none.
    """
    if is_file(name):
        return read_recipe(name, find_recipe)
    row, _, task = name.partition("-to-")
    if task in TRANSFER_TASKS and row in PAPER:
        return paper_recipe(row, task)
    if name not in RECIPES:
        raise Mistake(
            f"no recipe {name!r} - there are: {', '.join(sorted(RECIPES))}; and the paper's rows"
            f" with -to-TASK, TASK one of {', '.join(TRANSFER_TASKS)}"
        )
    return RECIPES[name]
