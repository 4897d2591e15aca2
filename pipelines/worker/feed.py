"""What the workers are fed: Ray Train asks here for a stream each time it starts a worker group.

`configure` runs again after every restart and resize, with the group's size, before its workers
ask for their first batch, and reads the cursor (the newest resume state; the workers have put aside
damaged ones) itself. So resuming and new worker counts need no case of their own. The process that
does so imports no torch: it starts with every group.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import ray.data
from ray.actor import ActorHandle
from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from cluster.placement import decoding_selector
from cluster.settings import Place
from pipelines.cli.place import shard_cache
from pipelines.lineage.newest_state import newest_state
from pipelines.worker.background import Background
from storage.columns import StreamSpec
from storage.dataset import load_dataset
from storage.dealing import deal
from storage.stream import eval_stream, train_stream

TRAIN: Literal["train"] = "train"
VAL: Literal["val"] = "val"
T = TypeVar("T")


class OrderedDataConfig(DataConfig):
    """Builds the streams for the worker group that is starting and deals them out in order."""

    def __init__(
        self, train: StreamSpec, val: StreamSpec, place: Place, *, steps: int, attempt_uri: str
    ) -> None:
        """Take the streams of a stage of so many steps (`recipes.streams`)."""
        super().__init__()
        self._train, self._val, self._place = train, val, place
        self._steps, self._attempt_uri = steps, attempt_uri

    def configure(
        self,
        datasets: dict[str, Dataset],
        world_size: int,
        worker_handles: list[ActorHandle] | None,
        worker_node_ids: list[str] | None,
        **kwargs: object,
    ) -> list[dict[str, DataIterator]]:
        """Return, for every rank, its iterator under each asked-for name."""
        per_rank: list[dict[str, DataIterator]] = [{} for _ in range(world_size)]
        for name in datasets:
            splits = deal(self._stream(name, world_size), world_size, worker_node_ids)
            for shards, split in zip(per_rank, splits, strict=True):
                shards[name] = split
        return per_rank

    def _stream(self, name: str, world_size: int) -> Callable[[range], Dataset]:
        """Makes the stream of some ranks; all from the same state, dataset and nodes."""
        place = self._place
        spec = self._val if name == VAL else self._train
        nodes = decoding_selector(
            ray.nodes(), on_gpu_nodes=place.decode_on_gpu_nodes, more_to_come=place.wait_for_nodes
        )
        how: dict[str, Any] = {
            "world_size": world_size,
            "dataset": load_dataset(spec.dataset),
            "num_cpus": place.decode_cpus,
            "cache": shard_cache(place.cache),
            "nodes": nodes,
        }
        if name == VAL:
            return lambda ranks: eval_stream(spec, ranks=ranks, **how)
        state = newest_state(self._attempt_uri)
        start = state.step if state else 0
        return lambda ranks: train_stream(
            spec, start_step=start, stop_step=self._steps, ranks=ranks, **how
        )


def begun(stream: Callable[[], Iterator[T]]) -> Iterator[T]:
    """The items of a stream that is opened, and asked for the first one, beside the caller."""

    def begin() -> tuple[T, Iterator[T]]:
        items = stream()
        return next(items), items

    def all_items() -> Iterator[T]:
        first, rest = opened.result()
        yield first
        yield from rest

    opened = Background(begin)
    return all_items()


def placeholder() -> Dataset:
    """Ray Train wants a dataset for each name before it asks `configure` for the real ones."""
    return ray.data.range(1)
