from pathlib import Path

import numpy as np
import pytest

from storage.dataset import Dataset
from storage.errors import BadDataset, BadSample
from storage.index import load_index
from storage.objects import open_store
from storage.pack import pack
from storage.pack.digits import Digits
from storage.reader import Damaged, read_samples
from storage.store import ObjectStore


class Counting:
    """A store that counts its ranged reads."""

    def __init__(self, store: ObjectStore, parallel_reads: int | None = None) -> None:
        self.store = store
        self.uri = store.uri
        self.parallel_reads = parallel_reads or store.parallel_reads
        self.ranges: list[tuple[str, int, int]] = []

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        self.ranges.append((key, start, stop))
        return self.store.read_range(key, start, stop)


def test_every_request_is_answered_once_also_repeated_ones(digits: Dataset) -> None:
    index = load_index(digits, "train")
    wanted = np.array([9, 1419, 9, 0, 700])
    found = list(read_samples(open_store(digits.uri), index, wanted))
    assert sorted(raw.request for raw in found) == [0, 1, 2, 3, 4]
    by_request = {raw.request: raw for raw in found}
    assert by_request[0].data == by_request[2].data
    assert all(raw.key.startswith("digit-") for raw in found)


def test_neighbours_are_one_read(digits: Dataset) -> None:
    index = load_index(digits, "train")
    store = Counting(open_store(digits.uri))
    wanted = np.flatnonzero(index.rows["shard"] == 1)[:16]
    list(read_samples(store, index, np.random.default_rng(0).permutation(wanted)))
    assert len(store.ranges) == 1


def test_far_samples_and_other_shards_are_reads_of_their_own(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage import reader

    monkeypatch.setattr(reader, "_GAP_BYTES", 4096)
    index = load_index(digits, "train")
    store = Counting(open_store(digits.uri))
    wanted = np.array([0, 1, 100, 101, len(index) - 1])
    list(read_samples(store, index, wanted))
    assert len(store.ranges) == 3


@pytest.fixture
def packed(place: str) -> Dataset:
    return pack(Digits(), place)


def test_a_flipped_bit_in_a_shard_names_shard_and_key(packed: Dataset) -> None:
    index = load_index(packed, "train")
    path = Path(packed.uri) / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[int(index.rows["offset"][3]) + 40] ^= 1
    path.write_bytes(data)
    store = open_store(packed.uri)
    assert len(list(read_samples(store, index, np.array([2, 4])))) == 2
    with pytest.raises(BadSample, match=r"'digit-\d+\.png' in train-000000\.tar: .*checksum"):
        list(read_samples(store, index, np.arange(8)))


def test_a_shard_with_other_members_is_named(packed: Dataset) -> None:
    index = load_index(packed, "train")
    path = Path(packed.uri) / "train-000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[512:] + data[:512])
    with pytest.raises(BadSample, match=r"train-000000\.tar: another member is there"):
        list(read_samples(open_store(packed.uri), index, np.arange(8)))


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_a_flipped_bit_in_a_name_is_one_bad_sample(packed: Dataset, bit: int) -> None:
    """The high bit makes the name no UTF-8."""
    index = load_index(packed, "train")
    path = Path(packed.uri) / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[int(index.rows["offset"][3]) - 512 + 2] ^= bit
    path.write_bytes(data)
    damaged: list[Damaged] = []
    found = list(read_samples(open_store(packed.uri), index, np.arange(8), damaged=damaged))
    assert len(found) == 7
    (one,) = damaged
    assert one.request == 3
    assert str(one.error).isprintable()
    assert "another member is there" in one.error.reason


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_a_cut_shard_is_named(packed: Dataset, keep: float) -> None:
    index = load_index(packed, "train")
    path = Path(packed.uri) / "train-000000.tar"
    last = int(index.rows["offset"][-1]) + int(index.rows["size"][-1])
    path.write_bytes(path.read_bytes()[: int(last * keep)])
    with pytest.raises(BadDataset, match=r"train-000000\.tar ends at byte .*pack it again"):
        list(read_samples(open_store(packed.uri), index, np.arange(len(index))))


def test_a_missing_shard_is_named(packed: Dataset) -> None:
    index = load_index(packed, "train")
    (Path(packed.uri) / "train-000000.tar").unlink()
    with pytest.raises(BadDataset, match=r"shard train-000000\.tar .* is missing"):
        list(read_samples(open_store(packed.uri), index, np.arange(8)))


@pytest.mark.parametrize("parallel_reads", [1, 8])
def test_a_block_of_padding_alone_reads_nothing(digits: Dataset, parallel_reads: int) -> None:
    store = Counting(open_store(digits.uri), parallel_reads)
    index, nothing = load_index(digits, "val"), np.zeros(0, dtype=np.int64)
    assert list(read_samples(store, index, nothing)) == []
    assert store.ranges == []
