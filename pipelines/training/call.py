"""`from pipelines import run`: what `pipeline.py` and the scripts of a stage do, from Python."""

from cluster.settings import Place
from pipelines.cli.call import command_of
from pipelines.cli.exits import signals_kept
from pipelines.cli.options import NoOptions
from pipelines.recipes.stage import Recipe
from pipelines.training.command import check_stages
from pipelines.training.outcomes import Outcome
from pipelines.training.stages import run_stages


def run(
    recipe: Recipe | str,
    *,
    only: str | None = None,
    run: str | None = None,
    place: Place | None = None,
    force: bool = False,
    parent: str | None = None,
) -> list[Outcome]:
    """Train the stages of a recipe in order; those that are committed are not trained again.

    Progress is printed. A call that was interrupted goes on when it is made again, like a script.

    Args:
        recipe: a value, a name, or a file of recipes.
        only: train this stage alone.
        run: name of the run, under which stages find each other. Default: the recipe's name.
        place: where to train. Default: `ray_config.yaml` in the working directory, if any.
        force: train again although it is committed; the old attempt is kept.
        parent: fingerprint or name of the parent attempt, if the run has several.

    Returns:
        Status, metrics and the place of the weights of each stage.

    Raises:
        Mistake, BadPlace, BadModel, storage.errors.BadInput: a mistake, in one line.
        Failed, storage.errors.Unavailable: the cluster or the storage failed.
    """
    command = command_of(
        recipe, NoOptions(), run=run, place=place, only=only, force=force, parent=parent
    )
    with signals_kept():
        return run_stages(command, check_stages(command))
