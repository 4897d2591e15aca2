"""Balanced classes: shares of an epoch, even draws within a class, equal for every worker count."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.balance import Balance, Balanced, class_shares, samples_by_class
from storage.blocks import train_batch
from storage.columns import StreamSpec, columns, open_stream, order_of
from storage.dataset import Dataset
from storage.decode import Crop
from storage.errors import BadOrder
from storage.index import INDEX_ROW, SampleIndex
from storage.order import OrderSpec, global_batch, rank_batch, rank_draws, steps_per_epoch
from storage.pack import pack
from storage.pack.digits import Digits
from storage.selection import EVERYTHING, Selection, select
from storage.selection_cache import grouped

counts = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)
balances = st.sampled_from(["sqrt", "uniform"])
LONG_TAIL = np.repeat(np.arange(5), [1000, 200, 30, 0, 2])  # a class without samples, too


def order(labels: np.ndarray, balance: Balance, batch: int, **changes: object) -> OrderSpec:
    table = samples_by_class(labels, digest="d", seed=0)
    given = {"digest": "d", "samples": len(labels), "seed": 0, "global_batch": batch}
    given["balanced"] = Balanced.of(table, balance, samples=len(labels))
    return OrderSpec(**given | changes)  # pyright: ignore[reportArgumentType]  by **


def mixed(of_classes: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(of_classes)), of_classes))


@given(counts=counts, balance=balances)
def test_shares_are_the_rounded_quotas_and_fill_the_epoch(counts: list[int], balance: str) -> None:
    have = np.array(counts)
    share = class_shares(have, balance)  # type: ignore[arg-type]  # a str to the checker
    weight = np.sqrt(have) if balance == "sqrt" else (have > 0).astype(float)
    assert share.sum() == have.sum()
    assert (np.abs(share - have.sum() * weight / weight.sum()) < 1).all()
    assert ((share > 0) == (have > 0)).all()


@pytest.mark.parametrize(
    ("balance", "shares"),
    [
        ("none", [1000, 200, 30, 0, 2]),
        ("sqrt", [740, 331, 128, 0, 33]),
        ("uniform", [308, 308, 308, 0, 308]),
    ],
)
def test_shares_of_a_long_tail(balance: Balance, shares: list[int]) -> None:
    found = class_shares(np.bincount(LONG_TAIL), balance)
    assert found.tolist() == shares


def test_of_equal_remainders_the_first_classes_get_more() -> None:
    assert class_shares(np.array([5, 1, 2]), "uniform").tolist() == [3, 3, 2]


@settings(max_examples=30)
@given(counts=counts, balance=balances, batch=st.integers(1, 64))
def test_draws_of_an_epoch_are_its_shares_and_even_within_a_class(
    counts: list[int], balance: str, batch: int
) -> None:
    labels = mixed(counts)
    samples, spec = len(labels), order(labels, balance, batch, tail="carry")  # type: ignore[arg-type]
    steps = [rank_draws(spec, s, rank=0, world_size=1) for s in range(-(-4 * samples // batch))]
    epoch, position, visit = (np.concatenate(column) for column in zip(*steps, strict=True))
    since_the_beginning = np.zeros(samples, dtype=np.int64)
    assert spec.balanced is not None
    for one in range(4):
        times = np.bincount(position[epoch == one], minlength=samples)
        assert np.array_equal(times, spec.balanced.times(one))
        drawn = np.bincount(labels, weights=times)
        assert drawn.tolist() == spec.balanced.shares.tolist()
        since_the_beginning += times
        for label in np.unique(labels):
            assert np.ptp(times[labels == label]) <= 1
            assert np.ptp(since_the_beginning[labels == label]) <= 1
    whole = epoch < 4
    order_of_visits = np.lexsort((visit[whole], position[whole]))
    expected = np.concatenate([np.arange(times) for times in since_the_beginning])
    assert np.array_equal(visit[whole][order_of_visits], expected)


def test_a_large_class_is_seen_whole_over_several_epochs() -> None:
    spec = order(LONG_TAIL, "uniform", 1232)
    seen = [np.unique(global_batch(spec, epoch)[1]) for epoch in range(4)]
    large = [one[LONG_TAIL[one] == 0] for one in seen]
    assert [len(one) for one in large] == [308] * 4
    assert len(np.unique(np.concatenate(large[:3]))) == 924
    assert len(np.unique(np.concatenate(large))) == 1000


@pytest.mark.parametrize("tail", ["drop", "carry"])
@pytest.mark.parametrize("balance", ["sqrt", "uniform"])
def test_slices_of_all_ranks_are_the_global_batch(balance: Balance, tail: str) -> None:
    spec = order(LONG_TAIL, balance, 64, tail=tail)
    for step in (0, 18, 19, 1000):  # 19.25 batches an epoch
        whole = rank_draws(spec, step, rank=0, world_size=1)
        for world in (2, 4):
            parts = [rank_draws(spec, step, rank=r, world_size=world) for r in range(world)]
            for name in ("epoch", "position", "visit"):
                joined = np.concatenate([getattr(part, name) for part in parts])
                assert np.array_equal(joined, getattr(whole, name)), (step, world, name)


def test_a_batch_has_the_classes_of_independent_draws() -> None:
    """The variance of a batch's class counts is that of a full shuffle, also of sorted shards."""
    spec = order(LONG_TAIL, "uniform", 64)
    steps = range(10 * steps_per_epoch(spec))
    found = np.array(
        [np.bincount(LONG_TAIL[global_batch(spec, s)[1]], minlength=5) for s in steps]
    )[:, [0, 1, 2, 4]]
    assert abs(found.mean() - 16) < 0.2
    assert abs(found.var(axis=0).mean() / (64 * 3 / 16) - 1) < 0.15


def test_the_balanced_order_never_changes() -> None:
    """A run resumed by a later version of this code must continue the sequence it began."""
    drawn = rank_draws(order(LONG_TAIL, "sqrt", 8), 1000, rank=0, world_size=1)
    assert drawn.epoch.tolist() == [6] * 8
    assert drawn.position.tolist() == [1231, 719, 17, 187, 529, 546, 181, 1142]
    assert drawn.visit.tolist() == [104, 5, 4, 4, 5, 4, 4, 10]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"digest": "e"}])
def test_the_cycle_depends_on_seed_and_digest(changed: dict[str, object]) -> None:
    given: dict[str, object] = {"digest": "d", "seed": 0}
    one, other = (samples_by_class(LONG_TAIL, **g) for g in (given, given | changed))  # type: ignore[arg-type]
    assert not np.array_equal(one, other)
    assert np.array_equal(np.sort(one), np.sort(other))


def test_runs_of_neighbours_are_refused() -> None:
    with pytest.raises(BadOrder, match="run_samples 16"):
        order(LONG_TAIL, "sqrt", 8, run_samples=16)


# with a dataset


def stream(digits: Dataset, **changes: object) -> StreamSpec:
    given = {"dataset": digits.uri, "crop": Crop(image_size=12), "global_batch": 64}
    return StreamSpec(**given | {"balance": "uniform"} | changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "selection",
    [
        Selection(classes=(7, 2, 5), labels=(0, 1, 1)),
        Selection(per_class=9),
        Selection(samples=333, skip=5),
    ],
)
def test_classes_of_a_selection_are_balanced(digits: Dataset, selection: Selection) -> None:
    spec = stream(digits, selection=selection, tail="carry", global_batch=9)
    opened = open_stream(spec, digits.digest)
    labels = select(opened.index, selection)[1]
    steps = range(-(-len(labels) // 9))
    batches = [global_batch(opened.order, step) for step in steps]
    epoch, position = (np.concatenate(column) for column in zip(*batches, strict=True))
    drawn = np.bincount(labels[position[epoch == 0]])
    assert drawn.sum() == len(labels)
    assert np.ptp(drawn) <= 1
    batch = train_batch(spec, 3)
    wanted = global_batch(opened.order, 3)[1]
    assert opened.positions is not None
    assert np.array_equal(batch["index"], opened.positions[wanted])
    assert np.array_equal(batch["label"], labels[wanted])


def test_what_repeats_within_an_epoch_is_cropped_anew(digits: Dataset) -> None:
    """Four digits as one class and a fifth as the other, which is drawn two or three times."""
    few = Selection(classes=(0, 1, 2, 3, 4), labels=(0, 0, 0, 0, 1), samples=60)
    batch = train_batch(stream(digits, selection=few, global_batch=60), 0)  # the whole epoch
    assert np.bincount(batch["label"]).tolist() == [30, 30]
    again = np.flatnonzero(batch["label"] == 1)
    index, times = np.unique(batch["index"][again], return_counts=True)
    assert times.min() >= 2
    for one in index:
        rows = np.flatnonzero(batch["index"] == one)
        assert sorted(batch["visit"][rows].tolist()) == list(range(len(rows)))
        assert len(np.unique(batch["image"][rows].reshape(len(rows), -1), axis=0)) == len(rows)


def test_a_damaged_sample_is_replaced_equally_for_every_worker_count(place: str) -> None:
    own_digits = pack(Digits(), place)
    spec = stream(own_digits)
    opened = open_stream(spec, own_digits.digest)
    _, position = global_batch(opened.order, 3)
    row = opened.index.rows[position[5]]
    shard = Path(own_digits.uri) / opened.index.shards[int(row["shard"])].name
    data = bytearray(shard.read_bytes())
    data[int(row["offset"]) + int(row["size"]) // 2] ^= 1
    shard.write_bytes(data)
    whole = train_batch(spec, 3)
    assert whole["quarantined"][5] == position[5]
    assert whole["index"][5] != position[5]
    for world in (2, 4):
        draws = [rank_draws(opened.order, 3, rank=r, world_size=world) for r in range(world)]
        parts = [columns(opened, one.position, one.visit, replace=True) for one in draws]
        for name in ("image", "label", "index", "quarantined", "visit"):
            assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name])


def test_without_balance_the_order_is_the_one_it_was(digits: Dataset) -> None:
    spec = stream(digits, balance="none")
    plain = order_of(spec)
    assert plain.balanced is None
    epoch, position = rank_batch(plain, 30, rank=0, world_size=1)
    batch = train_batch(spec, 30)
    assert np.array_equal(batch["visit"], epoch)
    assert np.array_equal(batch["index"], position)


def test_the_table_of_a_large_split_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = np.zeros(1_000_001, dtype=INDEX_ROW)
    rows["label"] = np.random.default_rng(0).integers(0, 50, len(rows))
    index = SampleIndex(split="train", rows=rows, shards=(), num_classes=50)
    wanted = samples_by_class(rows["label"], digest="d", seed=3)
    for _ in range(2):  # written, then found
        found = grouped(index, EVERYTHING, index.labels, digest="d", seed=3)
        assert isinstance(found, np.memmap)
        assert np.array_equal(found, wanted)
    assert len(list(tmp_path.rglob("classes-*.npy"))) == 1
    grouped(index, EVERYTHING, index.labels, digest="d", seed=4)
    assert len(list(tmp_path.rglob("classes-*.npy"))) == 2
