"""`from pipelines import predict`: what `predict.py` does, from Python."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow

from cluster.settings import Place
from pipelines.cli.call import command_of
from pipelines.cli.exits import signals_kept
from pipelines.prediction.command import carry_out
from pipelines.prediction.prediction import PredictionOptions
from pipelines.recipes.stage import Recipe


class _Collected:
    """Keeps all rows."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        for name, values in columns.items():
            self.columns.setdefault(name, []).extend(values)

    def end(self) -> None:
        pass


def predict(
    recipe: Recipe | str,
    options: PredictionOptions,
    *,
    run: str | None = None,
    place: Place | None = None,
    parent: str | None = None,
) -> pyarrow.Table:
    """Classify images.

    Args:
        recipe: a value, a name, or a file of recipes; its last stage where `options` names none.
        options: as of `predict.py`: `sources`, stage or weights, `top`, `out`.
        run: name of the run. Default: the recipe's name.
        place: where. Default: `ray_config.yaml` in the working directory, if any.
        parent: fingerprint or name of the attempt, if the run has several.

    Returns:
        A row for each image, with the columns of the CSV. With `out` the rows are written there,
        and the table is empty.

    Raises:
        Mistake, BadPlace, BadModel, storage.errors.BadInput: a mistake, in one line.
        Failed, storage.errors.Unavailable: the cluster or the storage failed.
    """
    command = command_of(recipe, options, run=run, place=place, parent=parent)
    collected = _Collected()
    with signals_kept():
        carry_out(command, collected)
    return pyarrow.table(collected.columns)
