"""On a real Ray: every rank gets its planned slice of every step, whatever the tasks do."""

import inspect
import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from ray.data._internal.execution import streaming_executor_state

from cluster.local.s3 import S3Server
from storage import order
from storage.augment import AugmentConfig, augment_image
from storage.blocks import eval_batches, train_batch
from storage.cache import FOLDER, Cache
from storage.columns import Batch, StreamSpec, describe, open_stream, order_of
from storage.dataset import Dataset, load_dataset
from storage.decode import Crop, decode
from storage.errors import BadDataset, BadOrder, BadSelection, StorageError
from storage.index import load_index
from storage.objects import open_store
from storage.order import rank_batch
from storage.pack import pack
from storage.pack.digits import Digits
from storage.reader import read_samples
from storage.selection import Selection, select
from storage.stream import (
    DECODE_CPUS,
    _pieces,
    _resolved,
    eval_stream,
    rows_of_block,
    train_stream,
)

pytestmark = pytest.mark.usefixtures("ray_session")


def spec(dataset: Dataset, **changes: object) -> StreamSpec:
    return StreamSpec(
        **{"dataset": dataset.uri, "crop": Crop(image_size=12), "global_batch": 64} | changes  # pyright: ignore[reportArgumentType]  by **
    )


def batches_of(
    source: ray.data.DataIterator | ray.data.Dataset, rows: int, seconds: float
) -> list[Batch]:
    """One rank: its batches, as the training loop would take them."""
    batches = []
    for batch in source.iter_batches(batch_size=rows, batch_format="numpy"):
        time.sleep(seconds * np.random.default_rng().random())
        batches.append({name: np.array(column) for name, column in batch.items()})
    return batches


def by_rank(
    stream: ray.data.Dataset, world_size: int, rows: int, *, seconds: float = 0.0
) -> list[list[Batch]]:
    if world_size == 1:  # as it comes: to deal blocks out, Ray starts a process
        return [batches_of(stream, rows, seconds)]
    iterators = stream.streaming_split(world_size, equal=True)
    consume = ray.remote(num_cpus=0)(batches_of)
    return ray.get([consume.remote(it, rows, seconds) for it in iterators])


def check_planned(stream: StreamSpec, ranks: list[list[Batch]], start: int, stop: int) -> None:
    planned = order_of(stream)
    for rank, batches in enumerate(ranks):
        assert len(batches) == stop - start
        for step, batch in zip(range(start, stop), batches, strict=True):
            epoch, position = rank_batch(planned, step, rank=rank, world_size=len(ranks))
            assert (batch["step"] == step).all(), (rank, step)
            assert np.array_equal(batch["index"], position), (rank, step)
            assert np.array_equal(batch["epoch"], epoch), (rank, step)


@pytest.mark.parametrize("world_size", [2, 4])
def test_each_rank_gets_its_slice_of_each_step(digits: Dataset, world_size: int) -> None:
    """From the middle of an epoch over its edge, several steps a block."""
    wanted = spec(digits)
    stream = train_stream(wanted, start_step=17, stop_step=50, world_size=world_size)
    check_planned(wanted, by_rank(stream, world_size, 64 // world_size), 17, 50)


def test_a_large_batch_comes_in_several_blocks(digits: Dataset) -> None:
    """Pieces of 300 rows: in the order of the ranks, and put together again by each of them."""
    wanted = spec(digits, global_batch=1200, tail="carry")
    stream = train_stream(wanted, start_step=1, stop_step=4, world_size=2)
    ranks = by_rank(stream, 2, 600)
    check_planned(wanted, ranks, 1, 4)
    whole = train_batch(wanted, 2)
    assert all(
        np.array_equal(np.concatenate([batches[1][name] for batches in ranks]), whole[name])
        for name in ("image", "label", "visit")
    )


@pytest.mark.parametrize(
    ("rows", "blocks"),
    [(1, 1), (128, 1), (512, 1), (513, 3), (1024, 2), (4096, 8), (521, 1), (1042, 1)],
)
def test_blocks_of_a_batch_are_equal_and_neither_large_nor_small(rows: int, blocks: int) -> None:
    assert _pieces(rows) == blocks


def test_order_survives_tasks_and_ranks_of_random_speed(digits: Dataset) -> None:
    """One step a block, tasks that finish out of order, ranks that stall."""
    world_size, wanted = 4, spec(digits)
    stream = train_stream(
        wanted, start_step=3, stop_step=15, world_size=world_size, rows_per_block=1
    )
    slow = stream.map_batches(
        stall,  # pyright: ignore[reportArgumentType]  Ray's type knows no columns
        batch_size=None,
        batch_format="numpy",
        num_cpus=DECODE_CPUS,  # as the decoding tasks, so that Ray fuses them
    )
    ranks = by_rank(slow, world_size, 64 // world_size, seconds=0.05)
    check_planned(wanted, ranks, 3, 15)


def stall(batch: Batch) -> Batch:
    time.sleep(0.2 * np.random.default_rng().random())
    return batch


def test_order_survives_workers_that_die(digits: Dataset, tmp_path: Path) -> None:
    """Every third block's process is killed at its first attempt; Ray runs the task again."""
    wanted = spec(digits)
    stream = train_stream(wanted, start_step=0, stop_step=12, world_size=2, rows_per_block=1)
    dying = stream.map_batches(
        die_once,  # pyright: ignore[reportArgumentType]  Ray's type knows no columns
        fn_kwargs={"folder": str(tmp_path)},
        batch_size=None,
        batch_format="numpy",
        num_cpus=DECODE_CPUS,
    )
    check_planned(wanted, by_rank(dying, 2, 32), 0, 12)
    assert len(list(tmp_path.iterdir())) == 4


def die_once(batch: Batch, folder: str) -> Batch:
    import os
    import signal

    mark = Path(folder) / f"{batch['step'][0]}"
    if batch["step"][0] % 3 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return batch


@pytest.mark.slow
def test_order_survives_the_loss_of_a_node(digits: Dataset) -> None:
    """A cluster of its own, of three raylets: one is killed with the blocks that wait there."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.storage.support.lost_node", digits.uri],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "of 3 nodes" in done.stdout


def test_reading_ahead_is_bounded_and_then_rests(digits: Dataset) -> None:
    """Of 600 small blocks some 32 are made; then the process that deals them rests."""
    wanted = spec(digits, crop=Crop(image_size=90), tail="carry")
    stream = train_stream(wanted, start_step=0, stop_step=600, world_size=1, rows_per_block=64)
    timed = stream.map_batches(
        when,  # pyright: ignore[reportArgumentType]  Ray's type knows no columns
        batch_size=None,
        batch_format="numpy",
        num_cpus=DECODE_CPUS,
    )
    (split,) = timed.streaming_split(1, equal=True)
    batches = split.iter_batches(batch_size=64, batch_format="numpy", prefetch_batches=1)
    iterator = iter(batches)
    next(iterator)
    time.sleep(4)  # all four CPUs would make more than 200 blocks
    before = coordinator_seconds()
    time.sleep(4)
    assert coordinator_seconds() - before < 2  # of a CPU
    woke = time.time()
    early = sum(bool(batch["made"][0] < woke) for batch in itertools.islice(iterator, 80))
    assert 1 < early < 60  # a busy machine makes fewer


def coordinator_seconds() -> float:
    """Processor time of all processes that deal blocks to ranks."""
    dealing = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "ray::SplitCoordinator" in "".join(process.info["cmdline"] or [])
    ]
    assert dealing
    return sum(sum(process.cpu_times()[:2]) for process in dealing)


def test_the_executor_of_this_ray_waits_as_long_as_we_say() -> None:
    said = inspect.getsource(streaming_executor_state.process_completed_tasks)
    assert "timeout=WAIT_FOR_TASK_COMPLETION_TIMEOUT_S" in said


@pytest.mark.parametrize(
    ("size", "rows"), [(8, 512), (112, 512), (160, 250), (224, 128), (384, 128)]
)
def test_blocks_of_small_images_hold_more(size: int, rows: int) -> None:
    assert rows_of_block(size) == rows


def when(batch: Batch) -> Batch:
    return {**batch, "made": np.full(len(batch["step"]), time.time())}


def test_a_resumed_stream_continues_the_unbroken_one(digits: Dataset) -> None:
    """Cut twice, once at an epoch's edge, with 1, then 4, then 2 ranks: the same global batches."""
    wanted = spec(digits, tail="carry")
    unbroken = whole_batches(
        by_rank(train_stream(wanted, start_step=0, stop_step=40, world_size=1), 1, 64)
    )
    broken: list[Batch] = []
    for start, stop, world in ((0, 22, 1), (22, 31, 4), (31, 40, 2)):
        stream = train_stream(wanted, start_step=start, stop_step=stop, world_size=world)
        broken += whole_batches(by_rank(stream, world, 64 // world))
    assert len(broken) == len(unbroken) == 40
    for one, other in zip(unbroken, broken, strict=True):
        for column in ("image", "label", "index", "epoch", "step"):
            assert np.array_equal(one[column], other[column])


def whole_batches(ranks: list[list[Batch]]) -> list[Batch]:
    """Global batches again: the ranks' slices, one after the other."""
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*ranks, strict=True)
    ]


@pytest.mark.parametrize(
    "augment", [AugmentConfig(), AugmentConfig(randaugment_layers=2, random_erasing=0.5)]
)
def test_pixels_and_labels_are_those_of_the_sample(digits: Dataset, augment: AugmentConfig) -> None:
    wanted = spec(digits, seed=5, augment=augment)
    (batches,) = by_rank(train_stream(wanted, start_step=0, stop_step=2, world_size=1), 1, 64)
    index = load_index(digits, "train")
    batch = batches[1]
    assert batch["image"].dtype == np.uint8
    assert batch["image"].shape == (64, 12, 12, 3)
    assert np.array_equal(batch["label"], index.labels[batch["index"]])
    for raw in read_samples(open_store(digits.uri), index, batch["index"]):
        position = int(batch["index"][raw.request])
        pixels = decode(raw.data, wanted.crop, seed=5, epoch=0, index=position)
        pixels = augment_image(pixels, augment, seed=5, epoch=0, index=position)
        assert np.array_equal(batch["image"][raw.request], pixels)


def test_a_selection_smaller_than_a_batch_carries_over(digits: Dataset) -> None:
    selection = Selection(classes=(3, 8), per_class=5)
    wanted = spec(digits, selection=selection, tail="carry", global_batch=16)
    (batches,) = by_rank(train_stream(wanted, start_step=0, stop_step=5, world_size=1), 1, 16)
    positions, labels = select(load_index(digits, "train"), selection)
    seen = np.concatenate([batch["index"] for batch in batches])
    assert np.array_equal(np.sort(seen), np.repeat(np.sort(positions), 8))
    assert all(
        labels[np.searchsorted(positions, i)] == label
        for batch in batches
        for i, label in zip(batch["index"], batch["label"], strict=True)
    )


def test_evaluation_sees_each_sample_once_and_ranks_stay_level(digits: Dataset) -> None:
    world_size = 3  # does not divide the 377 samples
    wanted = spec(digits, split="val", global_batch=48, crop=Crop(image_size=8, kind="center"))
    ranks = by_rank(eval_stream(wanted, world_size=world_size), world_size, 48 // world_size)
    assert len({len(batches) for batches in ranks}) == 1
    assert {len(b["label"]) for batches in ranks for b in batches} == {48 // world_size}
    index = np.concatenate([b["index"] for batches in ranks for b in batches])
    label = np.concatenate([b["label"] for batches in ranks for b in batches])
    assert np.array_equal(np.sort(index[index >= 0]), np.arange(377))
    assert ((label == -1) == (index == -1)).all()


def test_streaming_from_s3_gives_the_same_batches(
    s3: S3Server, digits: Dataset, tmp_path: Path
) -> None:
    there = pack(Digits(), s3.uri("streamed", tmp_path.name), shard_bytes=400 << 10)
    here, far = (
        whole_batches(
            by_rank(train_stream(spec(d), start_step=0, stop_step=6, world_size=2), 2, 32)
        )
        for d in (digits, there)
    )
    for one, other in zip(here, far, strict=True):
        assert np.array_equal(one["image"], other["image"])
        assert np.array_equal(one["index"], other["index"])


@pytest.fixture
def own_digits(place: str) -> Dataset:
    return pack(Digits(), place)


def cause_of(error: BaseException) -> StorageError:
    """Ours, at the bottom of Ray's chain of wrappers."""
    while not isinstance(error, StorageError):
        following = error.__cause__ or getattr(error, "cause", None)
        assert following is not None, error
        error = following
    return error


def damage(dataset: Dataset, positions: list[int]) -> None:
    """Flip a bit of some samples of the (one-shard) training split."""
    index = load_index(dataset, "train")
    path = Path(dataset.uri) / "train-000000.tar"
    data = bytearray(path.read_bytes())
    for position in positions:
        data[int(index.rows["offset"][position])] ^= 1
    path.write_bytes(data)


def test_damaged_samples_are_replaced_alike_for_every_worker_count(own_digits: Dataset) -> None:
    """Batches stay whole, nothing else changes, and what was replaced is named."""
    bad = [7, 400, 1419]
    wanted = spec(own_digits, tail="carry", global_batch=142)  # an epoch is 10 steps
    sound = whole_batches(
        by_rank(train_stream(wanted, start_step=0, stop_step=10, world_size=1), 1, 142)
    )
    damage(own_digits, bad)
    runs = [
        whole_batches(
            by_rank(
                train_stream(wanted, start_step=0, stop_step=10, world_size=world),
                world,
                142 // world,
            )
        )
        for world in (1, 2)
    ]
    for before, one, other in zip(sound, *runs, strict=True):
        for column in ("image", "label", "index", "quarantined"):
            assert np.array_equal(one[column], other[column])
        kept = one["quarantined"] < 0
        assert np.array_equal(before["index"][kept], one["index"][kept])
        assert np.array_equal(before["index"][~kept], one["quarantined"][~kept])
    seen = np.concatenate([batch["quarantined"] for batch in runs[0]])
    assert sorted(seen[seen >= 0].tolist()) == bad
    instead = np.concatenate([batch["index"][batch["quarantined"] >= 0] for batch in runs[0]])
    assert not set(instead.tolist()) & set(bad)
    why = describe(wanted, own_digits.digest, 7)
    assert why is not None
    assert why.shard == "train-000000.tar"
    assert "checksum" in why.reason
    assert describe(wanted, own_digits.digest, 8) is None


def test_a_damaged_sample_is_not_evaluated(own_digits: Dataset) -> None:
    damage(own_digits, [7, 9])
    wanted = spec(own_digits, global_batch=71)
    (batches,) = by_rank(eval_stream(wanted, world_size=1), 1, 71)
    index = np.concatenate([batch["index"] for batch in batches])
    label = np.concatenate([batch["label"] for batch in batches])
    quarantined = np.concatenate([batch["quarantined"] for batch in batches])
    assert sorted(quarantined[quarantined >= 0].tolist()) == [7, 9]
    assert np.array_equal(np.sort(index[index >= 0]), np.delete(np.arange(1420), [7, 9]))
    assert ((label == -1) == (index == -1)).all()


def test_a_dataset_of_nothing_but_damage_is_given_up_by_name(own_digits: Dataset) -> None:
    damage(own_digits, list(range(1420)))
    with pytest.raises(BadDataset, match=r"32 samples .* train-000000.tar: its bytes have another"):
        train_batch(spec(own_digits), 0)


def test_the_cache_of_a_node_saves_the_second_epoch(
    s3: S3Server, digits: Dataset, tmp_path: Path
) -> None:
    """Requests and bytes are counted; a damaged cache is mended from the bucket."""
    there = pack(Digits(), s3.uri("cached", tmp_path.name), shard_bytes=400 << 10)
    cache = Cache(folder=str(tmp_path / "cache"), bytes=64 << 20)
    epoch = order.steps_per_epoch(order_of(spec(there)))

    def run(start: int) -> tuple[list[Batch], int]:
        stream = train_stream(
            spec(there), start_step=start, stop_step=start + epoch, world_size=1, cache=cache
        )
        (batches,) = by_rank(stream, 1, 64)
        assert (sum(b["requests"].sum() for b in batches) > 0) == (
            sum(b["bytes"].sum() for b in batches) > 0
        )
        return batches, sum(int(b["bytes"].sum()) for b in batches)

    first, cost = run(0)
    assert cost >= sum(shard.bytes for shard in there.shards("train")) * 0.5
    second, again = run(epoch)
    assert again < cost / 10
    for path in (tmp_path / "cache" / FOLDER).iterdir():
        path.write_bytes(b"\1" * path.stat().st_size)  # marked as here, and wrong
    mended, _ = run(0)
    for one, other in zip(first, mended, strict=True):
        assert np.array_equal(one["image"], other["image"])
        assert (other["quarantined"] == -1).all()
    assert len(second) == epoch


def test_a_dataset_that_was_replaced_in_mid_run_is_noticed(own_digits: Dataset) -> None:
    stream = train_stream(spec(own_digits), start_step=0, stop_step=4, world_size=1)
    pack(Digits(validation_fraction=0.5), own_digits.uri, force=True)
    with pytest.raises(Exception, match="was replaced while it was in use") as caught:
        by_rank(stream, 1, 64)
    assert isinstance(cause_of(caught.value), BadDataset)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"split": "test"}, BadDataset, "no split 'test'"),
        ({"selection": Selection(classes=(11,))}, BadSelection, r"\[11\].* 10\b"),
        ({"global_batch": 4096}, BadOrder, "1420 samples do not fill one of 4096"),
        ({"global_batch": 63}, BadOrder, "63 is not a multiple of 2 workers"),
    ],
)
def test_wrong_specs_fail_before_any_task(
    digits: Dataset, changes: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train_stream(spec(digits, **changes), start_step=0, stop_step=2, world_size=2)


def test_a_million_steps_are_planned_in_seconds(digits: Dataset) -> None:
    started = time.monotonic()
    stream = train_stream(
        spec(digits, global_batch=256), start_step=0, stop_step=10**6, world_size=1
    )
    iterator = iter(stream.iter_batches(batch_size=256, batch_format="numpy"))
    assert next(iterator)["step"].tolist() == [0] * 256
    assert time.monotonic() - started < 30
    iterator.close()  # pyright: ignore[reportAttributeAccessIssue]  a generator


def test_the_manifest_names_the_order(digits: Dataset) -> None:
    assert order_of(spec(digits)).digest == load_dataset(digits.uri).digest


def test_batches_without_ray_are_those_of_the_order(digits: Dataset) -> None:
    whole = spec(digits, split="train", global_batch=48)
    _, position = rank_batch(order_of(whole), 7, rank=0, world_size=1)
    batch = train_batch(whole, 7)
    assert (batch["index"] == position).all()
    assert batch["image"].shape == (48, 12, 12, 3)
    seen = np.concatenate([b["index"] for b in eval_batches(spec(digits, split="val"))])
    assert (seen == np.arange(digits.samples("val"))).all()


def test_the_driver_chooses_the_length_of_runs_and_no_task_does(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = _resolved(spec(digits), digits)
    assert resolved.run_samples == order_of(spec(digits), digits).run_samples

    def chosen_anew(*_: object, **__: object) -> int:
        raise AssertionError("a task chose the length of runs")

    monkeypatch.setattr("storage.columns.natural_run", chosen_anew)
    open_stream.cache_clear()
    assert len(train_batch(resolved, 3)["label"]) == 64
    open_stream.cache_clear()
