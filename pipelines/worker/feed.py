"""What the workers are fed: Ray Train asks here for a stream each time it starts a worker group.

`configure` runs again after every restart and resize, with the group's size, before its workers
ask for their first batch, and reads the cursor (the newest resume state; the workers have put aside
damaged ones) itself. So resuming and new worker counts need no case of their own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import ray.data
from ray.actor import ActorHandle
from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from cluster.placement import decoding_selector
from pipelines.lineage.resume_states import newest_state
from pipelines.recipes.stage import Stage
from pipelines.worker.background import Background
from storage.cache import Cache
from storage.stream import StreamSpec, eval_stream, train_stream

TRAIN, VAL = "train", "val"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The streams of one stage attempt, as plain values."""

    stage: Stage
    dataset_uri: str
    attempt_uri: str
    decode_cpus: float
    cache: Cache | None = None
    decode_on_gpu_nodes: bool | None = None
    wait_for_nodes: bool = False

    def train_spec(self) -> StreamSpec:
        """The training images, in the order that depends on nothing but the stage."""
        data = self.stage.data
        return StreamSpec(
            dataset=self.dataset_uri,
            split=data.train_split,
            selection=data.selection,
            crop=data.train_crop(self.stage.image_size),
            seed=self.stage.seed,
            global_batch=self.stage.global_batch,
            tail=data.tail,
        )

    def val_spec(self) -> StreamSpec:
        """The validation images: by default all of the classes that are trained on."""
        data = self.stage.data
        chosen = data.val_selection
        if chosen.classes is None and chosen.labels is None:
            same = data.selection
            chosen = replace(chosen, classes=same.classes, labels=same.labels)
        return replace(
            self.train_spec(),
            split=data.val_split,
            selection=chosen,
            crop=data.val_crop(self.stage.image_size),
        )


class OrderedDataConfig(DataConfig):
    """Builds the streams for the worker group that is starting and deals them out in order."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed

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
            stream = self._stream(name, world_size)
            splits = stream.streaming_split(world_size, equal=True, locality_hints=worker_node_ids)
            for shards, split in zip(per_rank, splits, strict=True):
                shards[name] = split
        return per_rank

    def _stream(self, name: str, world_size: int) -> Dataset:
        feed = self._feed
        nodes = decoding_selector(
            ray.nodes(), on_gpu_nodes=feed.decode_on_gpu_nodes, more_to_come=feed.wait_for_nodes
        )
        if name == VAL:
            return eval_stream(
                feed.val_spec(),
                world_size=world_size,
                num_cpus=feed.decode_cpus,
                cache=feed.cache,
                nodes=nodes,
            )
        state = newest_state(feed.attempt_uri)
        return train_stream(
            feed.train_spec(),
            start_step=state.step if state else 0,
            stop_step=feed.stage.steps,
            world_size=world_size,
            num_cpus=feed.decode_cpus,
            cache=feed.cache,
            nodes=nodes,
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
