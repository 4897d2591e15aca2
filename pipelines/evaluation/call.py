"""`from pipelines import evaluate`: what `evaluate.py` does, from Python."""

from cluster.settings import Place
from pipelines.cli.call import command_of
from pipelines.cli.exits import signals_kept
from pipelines.evaluation.evaluation import EvaluationOptions, make_evaluation
from pipelines.evaluation.run import evaluated
from pipelines.lineage.manifest import Manifest
from pipelines.recipes.stage import Recipe


def evaluate(
    recipe: Recipe | str,
    options: EvaluationOptions | None = None,
    *,
    run: str | None = None,
    place: Place | None = None,
    force: bool = False,
    parent: str | None = None,
) -> Manifest:
    """Measure committed weights, or a public checkpoint; what was measured before is read.

    Args:
        recipe: a value, a name, or a file of recipes; its last stage where `options` names none.
        options: as of `evaluate.py`: stage or weights, evaluators, split, crop.
        run: name of the run. Default: the recipe's name.
        place: where. Default: `ray_config.yaml` in the working directory, if any.
        force: measure again.
        parent: fingerprint or name of the attempt, if the run has several.

    Returns:
        The manifest of the evaluation: `metrics` by name, `weights` that were measured, `files`.

    Raises:
        Mistake, BadPlace, BadModel, storage.errors.BadInput: a mistake, in one line.
        Failed, storage.errors.Unavailable: the cluster or the storage failed.
    """
    command = command_of(
        recipe, options or EvaluationOptions(), run=run, place=place, force=force, parent=parent
    )
    with signals_kept():
        return evaluated(make_evaluation(command), command)
