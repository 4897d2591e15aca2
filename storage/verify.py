"""Check a dataset against its manifest: every byte of every shard, every sample of the index."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from storage.checksum import sha256_object
from storage.dataset import Dataset, Shard
from storage.errors import BadDataset, BadInput, BadSample, ObjectNotFound
from storage.index import SampleIndex, load_index
from storage.reader import Damaged, read_samples
from storage.store import ObjectStore

Progress = Callable[[str], None]


def verify(dataset: Dataset, *, progress: Progress | None = None) -> tuple[BadInput, ...]:
    """Find everything that is wrong with a dataset; empty if nothing is.

    A shard with the right checksum is intact; in others every damaged sample is found and named.
    `progress(shard)` is called for each shard. Raises Unavailable, and BadDataset if an index
    cannot be read.
    """
    store = dataset.shard_store()
    problems: list[BadInput] = []
    for split in dataset.splits:
        index = load_index(dataset, split)
        check = partial(_check, store, index)
        with ThreadPoolExecutor(max(2, store.parallel_reads)) as pool:
            for shard, found in zip(
                index.shards, pool.map(check, range(len(index.shards))), strict=True
            ):
                problems.extend(found)
                if progress is not None:
                    progress(shard.name)
    return tuple(problems)


def _check(store: ObjectStore, index: SampleIndex, number: int) -> list[BadInput]:
    shard = index.shards[number]
    rows = np.flatnonzero(index.rows["shard"] == number)
    try:
        if sha256_object(store, shard.name) == shard.sha256 and len(rows) == shard.samples:
            return []
    except BadInput as error:
        return [error]
    damaged = list(_damaged(store, index, rows))
    return damaged or [
        BadSample(shard.name, "-", "its checksum differs, though every indexed sample is intact")
    ]


def _damaged(store: ObjectStore, index: SampleIndex, rows: np.ndarray) -> Iterator[BadInput]:
    damaged: list[Damaged] = []
    try:
        for _ in read_samples(store, index, rows, damaged=damaged):
            pass
    except BadInput as error:
        yield error
    yield from (one.error for one in damaged)


def check_shards(dataset: Dataset, splits: tuple[str, ...] | None = None) -> None:
    """Compare the size of every shard. Raises BadDataset, which names the first that differs."""
    store = dataset.shard_store()
    shards = [shard for name in splits or dataset.splits for shard in dataset.shards(name)]

    def check(shard: Shard) -> None:
        try:
            found = store.size(shard.name)
        except ObjectNotFound:
            raise BadDataset(
                f"shard {shard.name} of {dataset.uri} is missing: pack it again"
            ) from None
        if found != shard.bytes:
            raise BadDataset(
                f"shard {shard.name} of {dataset.uri} has {found} bytes, its manifest says"
                f" {shard.bytes}: it changed after packing. Pack it again"
            )

    with ThreadPoolExecutor(store.parallel_reads) as pool:
        list(pool.map(check, shards))
