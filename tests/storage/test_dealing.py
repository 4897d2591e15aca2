"""Several streams: each rank gets its slice, as from one, and no stream takes all CPUs."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import ray

from storage.ahead import Ahead, capacity
from storage.blocks import eval_batches
from storage.columns import Batch, StreamSpec, order_of
from storage.dataset import Dataset
from storage.dealing import deal, streams_of
from storage.decode import Crop
from storage.order import rank_batch
from storage.stream import eval_stream, train_stream
from storage.tasks import blocks_in_order

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.parametrize(
    ("world_size", "sizes"),
    [(1, [1]), (4, [4]), (5, [2, 3]), (8, [4, 4]), (9, [3, 3, 3]), (512, [4] * 128)],
)
def test_few_ranks_share_a_stream(world_size: int, sizes: list[int]) -> None:
    streams = streams_of(world_size)
    assert [len(ranks) for ranks in streams] == sizes
    assert [rank for ranks in streams for rank in ranks] == list(range(world_size))


def test_ranks_of_two_streams_get_their_slices(digits: Dataset) -> None:
    """Five ranks, several steps a block, from the middle of an epoch over its edge."""
    wanted = StreamSpec(dataset=digits.uri, crop=Crop(image_size=12), global_batch=60)
    stream = partial(train_stream, wanted, start_step=17, stop_step=40, world_size=5)
    order = order_of(wanted)
    for rank, batches in enumerate(taken(lambda ranks: stream(ranks=ranks), 5, 12)):
        assert [batch["step"][0] for batch in batches] == list(range(17, 40))
        for step, batch in enumerate(batches, 17):
            epoch, position = rank_batch(order, step, rank=rank, world_size=5)
            assert np.array_equal(batch["index"], position), (rank, step)
            assert np.array_equal(batch["epoch"], epoch), (rank, step)


def test_two_streams_evaluate_each_sample_once(digits: Dataset) -> None:
    crop = Crop(image_size=8, kind="center")
    wanted = StreamSpec(dataset=digits.uri, split="val", crop=crop, global_batch=60)
    stream = partial(eval_stream, wanted, world_size=6, rows_per_block=20)
    ranks = taken(lambda ranks: stream(ranks=ranks), 6, 10)
    assert len({len(batches) for batches in ranks}) == 1
    found = {name: joined(ranks, name) for name in ("index", "label", "image")}
    here = found["index"] >= 0
    by_index = np.argsort(found["index"][here])
    whole = list(eval_batches(wanted))
    for name, column in found.items():
        expected = np.concatenate([batch[name] for batch in whole])
        assert np.array_equal(column[here][by_index], expected), name


def test_two_streams_share_the_cpus() -> None:
    """Four CPUs hold eight tasks of half a CPU; one stream of all ranks would run eight at once."""
    run_slow: Any = ray.remote(num_cpus=0)(times_of_slow_blocks)
    for times in ray.get([run_slow.remote() for _ in range(2)]):
        began, ended = np.array(times).T
        assert max(((began <= moment) & (ended > moment)).sum() for moment in began) == 4


def times_of_slow_blocks() -> list[tuple[float, float]]:
    stream = blocks_in_order(slow, 40, 0.5, ahead=Ahead(8, share=0.5))
    blocks: Any = stream.iter_batches(batch_size=None, batch_format="numpy")
    return [(float(block["began"][0]), float(block["ended"][0])) for block in blocks]


def test_actors_as_small_as_tasks_get_all_blocks_in_order() -> None:
    """Ray makes one operator of the two; predictions on two CPUs run so."""
    actor: Any = Same
    stream = blocks_in_order(numbered, 30, 0.5, ahead=Ahead(8, consumers=2))
    outputs = stream.map_batches(actor, batch_size=None, num_cpus=0.5, concurrency=2)
    blocks: Any = outputs.iter_batches(batch_size=None, batch_format="numpy")
    assert [int(block["item"][0]) for block in blocks] == list(range(30))


class Same:
    def __call__(self, batch: Batch) -> Batch:
        return batch


def numbered(item: int) -> Batch:
    return {"item": np.array([item])}


@pytest.mark.parametrize(
    ("selector", "cpus"),
    [
        (None, 4),
        ({"role": "!train"}, 4),
        ({"role": "train"}, 0),
        ({"ray.io/node-id": "!in(a,b)", "role": "!train"}, 4),
        ({"ray.io/node-id": "in(a,b)"}, 0),
    ],
)
def test_only_nodes_that_may_decode_count(selector: dict[str, str] | None, cpus: int) -> None:
    found, store = capacity(selector)
    assert found == cpus
    assert (store > 0) == (cpus > 0)


def test_ranks_that_hold_much_of_the_memory_are_fed() -> None:
    """Ray's own limits start no task then, and ranks would wait forever."""
    assert run("small_object_store") == []


@pytest.mark.slow
def test_a_stream_is_dealt_on_the_node_of_its_ranks(digits: Dataset) -> None:
    assert run("dealt_on_nodes", digits.uri)[-1] == "2 processes dealt, on 2 nodes"


def run(script: str, *arguments: str) -> list[str]:
    """The lines that a script with a cluster of its own prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.storage.support.{script}", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def taken(
    stream: Callable[[range], ray.data.Dataset], world_size: int, rows: int
) -> list[list[Batch]]:
    """Each rank's batches."""
    here = ray.get_runtime_context().get_node_id()
    consume = ray.remote(num_cpus=0)(batches_of)
    splits = deal(stream, world_size, [here] * world_size)
    return ray.get([consume.remote(split, rows) for split in splits])


def batches_of(split: ray.data.DataIterator, rows: int) -> list[Batch]:
    batches = []
    for batch in split.iter_batches(batch_size=rows, batch_format="numpy"):
        batches.append({name: np.array(column) for name, column in batch.items()})
    return batches


def joined(ranks: list[list[Batch]], name: str) -> np.ndarray:
    return np.concatenate([batch[name] for batches in ranks for batch in batches])


def slow(item: int) -> Batch:
    began = time.time()
    time.sleep(0.3)
    return {"began": np.array([began]), "ended": np.array([time.time()])}
