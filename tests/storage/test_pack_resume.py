"""A packer that is killed, and the one that goes on: real processes, SIGKILL."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cluster.local.s3 import S3Server
from storage.dataset import load_dataset
from storage.errors import NotWritable
from storage.objects import open_store
from storage.pack import pack
from storage.pack.execute import Tally
from storage.pack.parts import SUFFIX
from storage.pack.plan import Plan, make_plan, per_shard, tar_bytes
from storage.pack.publish import UNFINISHED
from storage.pack.tars import index_tars
from storage.store import ObjectStore
from storage.verify import verify
from tests.storage.test_pack import Numbers
from tests.storage.test_tars import GOOD, TRAIN, put

SHARD_BYTES = 20_480  # nine samples
SAMPLES = 100


class Slow(Numbers):
    """Takes its time to read."""

    def read(self, split: str, i: int):
        time.sleep(0.01)
        return super().read(split, i)


@contextmanager
def killed_after(parts: int, place: str, shard_bytes: int = SHARD_BYTES) -> Iterator[ObjectStore]:
    """A process that packs, SIGKILLed when some parts are there."""
    code = (
        "from storage.pack import pack; from tests.storage.test_pack_resume import Slow; "
        f"pack(Slow({SAMPLES}), {place!r}, shard_bytes={shard_bytes})"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    store = open_store(place)
    try:
        deadline = time.monotonic() + 60
        while len(parts_of(store)) < parts:
            assert process.poll() is None, "it finished or failed before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    yield store


def parts_of(store: ObjectStore) -> list[str]:
    return sorted(key for key in store.list() if key.endswith(SUFFIX))


def at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Slow`, which has the same identity, does not wait here."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_a_killed_packer_is_continued(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = pack(Numbers(SAMPLES), str(tmp_path / "unbroken"), shard_bytes=SHARD_BYTES)
    with killed_after(3, place) as store:
        done = [name.removesuffix(SUFFIX) for name in parts_of(store)]
    at_full_speed(monkeypatch)
    before = {name: (Path(place) / name).stat() for name in done}
    told: list[Tally] = []
    dataset = pack(Slow(SAMPLES), place, shard_bytes=SHARD_BYTES, progress=told.append)
    for name, found in before.items():
        now = (Path(place) / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (found.st_ino, found.st_mtime_ns), name
    assert told[0].found_shards == told[0].shards == len(done)
    assert told[-1].done == SAMPLES
    assert len(told) == 1 + told[0].total_shards - len(done)
    assert dataset.digest == load_dataset(place).digest == unbroken.digest
    names = {path.name for path in Path(place).iterdir() if not path.name.startswith(".partial-")}
    assert names == {path.name for path in (tmp_path / "unbroken").iterdir()}


def test_a_killed_packer_is_continued_on_s3(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard_bytes = 2 * SHARD_BYTES  # six shards
    unbroken = pack(Numbers(SAMPLES), str(tmp_path / "unbroken"), shard_bytes=shard_bytes)
    place = s3.uri("killed", tmp_path.name)
    with killed_after(2, place, shard_bytes) as store:
        found = len(parts_of(store))
    at_full_speed(monkeypatch)
    told: list[Tally] = []
    dataset = pack(Slow(SAMPLES), place, shard_bytes=shard_bytes, progress=told.append)
    assert told[0].found_shards == found >= 2
    assert dataset.digest == unbroken.digest
    assert verify(dataset) == ()
    assert parts_of(store) == []
    assert not store.exists(UNFINISHED)


class Stopped(Exception):
    pass


def stop_after(count: int):
    """An executor that gives up in the middle."""

    def run(task, items, *, work_bytes):
        yield from map(task, items[:count])
        raise Stopped

    return run


def stopped(place: str, count: int = 4) -> ObjectStore:
    with pytest.raises(Stopped):
        pack(Numbers(SAMPLES), place, shard_bytes=SHARD_BYTES, run=stop_after(count))
    return open_store(place)


def found_by(source: Numbers, place: str, shard_bytes: int = SHARD_BYTES) -> int:
    told: list[Tally] = []
    pack(source, place, shard_bytes=shard_bytes, progress=told.append)
    return told[0].found_shards


def test_a_shard_whose_tar_is_cut_or_gone_is_made_again(place: str) -> None:
    stopped(place)
    tar = Path(place) / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    (Path(place) / "train-000002.tar").unlink()
    (Path(place) / f"train-000003.tar{SUFFIX}").write_bytes(b"garbled")
    assert found_by(Numbers(SAMPLES), place) == 1
    assert verify(load_dataset(place)) == ()


@pytest.mark.parametrize(
    ("source", "shard_bytes"),
    [(Numbers(SAMPLES + 1), SHARD_BYTES), (Numbers(SAMPLES), 2 * SHARD_BYTES)],
)
def test_other_input_starts_over(place: str, source: Numbers, shard_bytes: int) -> None:
    stopped(place)
    assert found_by(source, place, shard_bytes) == 0
    assert verify(load_dataset(place)) == ()
    assert parts_of(open_store(place)) == []


def test_what_was_left_out_before_the_kill_is_still_named(place: str) -> None:
    source = Numbers(SAMPLES, bad=tuple(range(40)))
    with pytest.raises(Stopped):
        pack(source, place, shard_bytes=SHARD_BYTES, run=stop_after(4))
    dataset = pack(source, place, shard_bytes=SHARD_BYTES)
    assert len(dataset.left_out) == len(set(dataset.left_out)) == 40
    assert dataset.samples("train") == 60


def test_a_shard_that_lost_all_its_samples_is_not_in_the_dataset(place: str) -> None:
    dataset = pack(Numbers(20, bad=tuple(range(12))), place, shard_bytes=1)
    assert [shard.samples for shard in dataset.shards("train")] == [1] * 8
    assert verify(load_dataset(place)) == ()
    assert pack(Numbers(20, bad=tuple(range(12))), place, shard_bytes=1).digest == dataset.digest


def test_shards_written_where_this_node_cannot_see_them_are_an_error(place: str) -> None:
    def elsewhere(task, items, *, work_bytes):
        for item in items:
            shard = task(item)
            for path in Path(place).glob("train-*"):
                path.unlink()
            yield shard

    with pytest.raises(NotWritable, match=r"was packed by another node.*s3://"):
        pack(Numbers(SAMPLES), place, shard_bytes=SHARD_BYTES, run=elsewhere)


def test_a_packer_killed_behind_its_manifest_is_tidied_up_after(place: str) -> None:
    store = stopped(place)
    leftovers = {key: store.read(key) for key in store.list()}
    dataset = pack(Numbers(SAMPLES), place, shard_bytes=SHARD_BYTES)
    for key in leftovers:
        store.write(key, leftovers[key])
    assert pack(Numbers(SAMPLES), place, shard_bytes=SHARD_BYTES).digest == dataset.digest
    assert parts_of(store) == []
    assert not store.exists(UNFINISHED)


def test_tars_are_not_scanned_twice(place: str) -> None:
    put(place, one=GOOD, two=GOOD, three=GOOD[:600])
    with pytest.raises(ValueError, match=r"three\.tar: torn"):
        index_tars(place, TRAIN)
    put(place, three=GOOD)
    told: list[Tally] = []
    dataset = index_tars(place, TRAIN, progress=told.append)
    assert (told[0].found_shards, told[-1].shards) == (2, 3)
    assert dataset.samples("train") == 6
    assert parts_of(open_store(place)) == []


# the plan


def test_the_plan_survives_its_file() -> None:
    plan = make_plan(Numbers(SAMPLES), SHARD_BYTES)
    assert Plan.from_json(plan.to_json()) == plan
    assert [len(one) for one in plan.slices] == [9] * 11 + [1]
    for garbled in (b"{}", b"[]", b"x", b'{"identity": 1}'):
        assert Plan.from_json(garbled) is None


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_shards_of_photographs_keep_to_their_size(spread: float) -> None:
    draw = np.random.default_rng(0)
    limit = 64 << 20
    filled: list[float] = []
    for _ in range(50):
        sizes = [tar_bytes(int(size)) for size in 110_000 * draw.lognormal(0, spread, 5_000)]
        count = per_shard(sizes[:512], limit)
        starts = range(0, len(sizes) - count, count)
        filled += [sum(sizes[start : start + count]) / limit for start in starts]
    assert np.mean(np.array(filled) > 1.0) < 0.1
    assert max(filled) < 1.25
    assert np.mean(filled) > 0.75
