"""Compute classes and features of pieces on Ray: tasks decode, workers with the network follow."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from cluster.settings import Place
from pipelines.cli.on_ray import on_ray
from pipelines.cli.options import Command
from pipelines.cli.ray_errors import explain_failure
from pipelines.inference.workers import inference_workers, network_of_actor, share_weights
from pipelines.prediction.here import Predict, Rows, rows_of
from pipelines.prediction.pieces import Piece
from pipelines.prediction.prediction import Prediction, PredictionOptions
from pipelines.prediction.work import Work, decoded
from storage.ahead import Ahead
from storage.columns import Batch
from storage.decode import Crop
from storage.tasks import blocks_in_order

_PIECES_PER_OBJECT = 64  # a task that is told of 50,000 objects takes seconds to start


def with_ray(command: Command[PredictionOptions], run: Callable[[Predict, Place], None]) -> None:
    """Call `run` with what predicts on Ray, while a Ray is connected.

    Raises:
        BadInput, Failed: a task or the cluster failed.
    """
    with on_ray(command) as command:
        try:
            run(predict, command.place)
        except RayError as error:
            raise explain_failure("predict", error) from None


def predict(
    prediction: Prediction, pieces: Sequence[Piece], skip: set[int], place: Place
) -> Iterator[Rows]:
    """Yield the predictions of pieces in order; with `out`, workers write them.

    Args:
        prediction: weights, crop, output.
        pieces: all of them.
        skip: numbers of pieces that are finished.
        place: how many workers.

    Raises:
        ray.exceptions.RayError: a task or the cluster failed.
    """
    todo = [number for number in range(len(pieces)) if number not in skip]
    if not todo:
        return
    work = Work.of(prediction)
    groups = [
        ray.put([(number, pieces[number]) for number in todo[start : start + _PIECES_PER_OBJECT]])
        for start in range(0, len(todo), _PIECES_PER_OBJECT)
    ]
    workers, side = inference_workers(place), prediction.crop.image_size
    piece_bytes = prediction.rows_per_piece * 3 * side**2
    stream = blocks_in_order(
        partial(_block, groups, prediction.crop),
        len(todo),
        place.decode_cpus,
        ahead=Ahead(piece_bytes, consumers=place.workers.most),
        nodes=workers.nodes,
    )
    actor: Any = _Actor  # Ray's type for classes leaves out their arguments
    outputs: Any = stream.map_batches(
        actor,
        fn_constructor_args=(work, share_weights(prediction.candidate.tensors())),
        **workers.options(blocks=len(todo)),
    )
    for batch in outputs.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=4):
        yield rows_of(batch, prediction)


def _block(groups: list[Any], crop: Crop, item: int) -> Batch:
    """Decode a piece, in a task."""
    group: Any = ray.get(groups[item // _PIECES_PER_OBJECT])
    number, piece = group[item % _PIECES_PER_OBJECT]
    return decoded(number, piece, crop)


class _Actor:
    """A worker with the network; called with one decoded piece at a time."""

    def __init__(self, work: Work, weights: Any) -> None:
        self.work = work
        self.network = network_of_actor(work.config, weights, work.precision)

    def __call__(self, piece: Batch) -> Batch:
        return self.work(self.network, piece)
