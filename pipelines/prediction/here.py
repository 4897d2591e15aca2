"""Compute classes and features of pieces in this process; the rows that a piece gives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.engine import device_here
from cluster.settings import Place
from pipelines.inference.network import Network
from pipelines.prediction.pieces import Piece
from pipelines.prediction.prediction import Prediction
from pipelines.prediction.work import Work, decoded, table_columns
from storage.columns import Batch


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Predictions of one piece: what is shown, or how much was written."""

    columns: dict[str, list[Any]]
    """Batch of `table_columns`; empty if they were written."""
    images: int
    errors: int


Predict = Callable[[Prediction, Sequence[Piece], set[int], Place], Iterator[Rows]]


def predict_here(
    prediction: Prediction, pieces: Sequence[Piece], skip: set[int], place: Place
) -> Iterator[Rows]:
    """Yield the predictions of pieces, except those to `skip`, without Ray: it takes time to start.

    Raises:
        cluster.errors.BadPlace: `workers.gpus` is 1, and torch can use no GPU.
    """
    device = device_here(place.workers.gpus)
    weights = {name: tensor.numpy() for name, tensor in prediction.candidate.tensors().items()}
    work = Work.of(prediction)
    network = Network(work.config, weights, work.precision, device=str(device))
    for number, piece in enumerate(pieces):
        if number not in skip:
            yield rows_of(work(network, decoded(number, piece, prediction.crop)), prediction)


def rows_of(batch: Batch, prediction: Prediction) -> Rows:
    """The rows of one piece that went through the network."""
    if prediction.out is not None:
        return Rows(columns={}, images=int(batch["images"][0]), errors=int(batch["errors"][0]))
    error = [text or None for text in batch["error"].tolist()]
    columns = table_columns(
        batch["file"].tolist(), batch["top"], batch["probability"], error, prediction.classes
    )
    bad = sum(text is not None for text in error)
    return Rows(columns=columns, images=len(error), errors=bad)
