"""The cache of shards: same bytes, fewer requests, bounded, safe with others, never trusted."""

import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from storage.cache import FOLDER, Cache, CachedShards
from storage.dataset import Shard
from storage.errors import BadDataset, ObjectChanged
from storage.local import LocalStore

MEBI = 1 << 20
Logs = pytest.LogCaptureFixture


def shard_of(folder: Path, name: str, size: int) -> Shard:
    data = (
        np.random.default_rng(list(name.encode())).integers(0, 256, size, dtype=np.uint8).tobytes()
    )
    (folder / name).write_bytes(data)
    return Shard(name=name, bytes=size, samples=1, sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture
def origin(tmp_path: Path) -> LocalStore:
    (tmp_path / "origin").mkdir()
    return LocalStore(tmp_path / "origin")


@pytest.fixture
def shards(origin: LocalStore) -> dict[str, Shard]:
    sizes = {"a.tar": 3 * MEBI + 77, "bb.tar": 2 * MEBI, "ccc.tar": 1}
    return {name: shard_of(origin.root, name, size) for name, size in sizes.items()}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(folder=str(tmp_path / "cache"), bytes=64 * MEBI)


def ranges(shard: Shard, count: int, seed: int = 0) -> Iterator[tuple[int, int]]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        start = int(random.integers(0, shard.bytes))
        yield start, int(random.integers(start, shard.bytes)) + 1


def test_every_range_has_its_bytes_and_the_second_time_costs_nothing(
    origin: LocalStore, shards: dict[str, Shard], cache: Cache
) -> None:
    cached = CachedShards(origin, shards, cache)
    for name, shard in shards.items():
        whole = (origin.root / name).read_bytes()
        for start, stop in ranges(shard, 60):
            assert cached.read_range(name, start, stop) == whole[start:stop]
    assert cached.read_range("a.tar", 0, shards["a.tar"].bytes)
    asked = origin.traffic.requests, origin.traffic.bytes
    again = CachedShards(origin, shards, cache)  # another stage
    for start, stop in ranges(shards["a.tar"], 60, seed=1):
        again.read_range("a.tar", start, stop)
    assert (origin.traffic.requests, origin.traffic.bytes) == asked


def test_a_range_that_is_partly_here_costs_one_request_for_the_rest(
    origin: LocalStore, shards: dict[str, Shard], cache: Cache
) -> None:
    cached = CachedShards(origin, shards, cache)
    cached.read_range("a.tar", 0, MEBI)
    before = origin.traffic.requests, origin.traffic.bytes
    cached.read_range("a.tar", MEBI // 2, 2 * MEBI)
    assert origin.traffic.requests == before[0] + 1
    assert origin.traffic.bytes == before[1] + MEBI


def test_what_is_used_longest_ago_makes_room(origin: LocalStore, tmp_path: Path) -> None:
    many = {f"{i}.tar": shard_of(origin.root, f"{i}.tar", MEBI) for i in range(10)}
    cached = CachedShards(origin, many, Cache(folder=str(tmp_path / "small"), bytes=4 * MEBI))
    for name in many:
        cached.read_range(name, 0, MEBI)
    held = {path.name: path.stat() for path in (tmp_path / "small" / FOLDER).iterdir()}
    assert sum(found.st_blocks * 512 for found in held.values()) <= 5 * MEBI
    assert many["9.tar"].sha256 in held
    assert many["0.tar"].sha256 not in held


def test_a_damaged_file_is_forgotten(
    origin: LocalStore, shards: dict[str, Shard], cache: Cache
) -> None:
    cached = CachedShards(origin, shards, cache)
    whole = cached.read_range("bb.tar", 0, 2 * MEBI)
    path = Path(cache.folder) / FOLDER / shards["bb.tar"].sha256
    with open(path, "r+b") as file:
        file.write(b"damage")
    assert cached.read_range("bb.tar", 0, 2 * MEBI) != whole
    cached.forget("bb.tar")
    assert cached.read_range("bb.tar", 0, 2 * MEBI) == whole


def test_a_full_disk_is_no_failure(
    origin: LocalStore, shards: dict[str, Shard], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    cached = CachedShards(origin, shards, cache)
    whole = (origin.root / "a.tar").read_bytes()
    assert [cached.read_range("a.tar", 5, 2 * MEBI) for _ in range(2)] == [whole[5 : 2 * MEBI]] * 2


def test_a_range_beyond_the_end_is_the_origins_error(
    origin: LocalStore, shards: dict[str, Shard], cache: Cache
) -> None:
    with pytest.raises(ObjectChanged, match="shorter than its index says"):
        CachedShards(origin, shards, cache).read_range("bb.tar", 0, 2 * MEBI + 1)


def read_all(origin: LocalStore, shards: dict[str, Shard], cache: Cache, seed: int) -> bool:
    """One of several processes, with several threads, in a cache that is too small."""
    cached = CachedShards(origin, shards, cache)

    def right(name: str, start: int, stop: int) -> bool:
        with open(origin.root / name, "rb") as file:
            file.seek(start)
            return cached.read_range(name, start, stop) == file.read(stop - start)

    jobs = [(n, *r) for n, shard in shards.items() for r in ranges(shard, 40, seed)]
    with ThreadPoolExecutor(4) as pool:
        return all(pool.map(lambda job: right(*job), jobs))


def test_processes_and_threads_share_it_while_room_is_made(
    origin: LocalStore, shards: dict[str, Shard], tmp_path: Path
) -> None:
    small = Cache(folder=str(tmp_path / "shared"), bytes=3 * MEBI)
    with get_context("spawn").Pool(3) as pool:
        assert all(
            pool.starmap(
                read_all, [(origin, shards, small, seed) for seed in range(6)], chunksize=1
            )
        )


def test_a_folder_that_cannot_be_used_is_one_line(origin: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadDataset, match=r"cache folder .*file/cache cannot be used .*null"):
        CachedShards(origin, {}, Cache(folder=str(tmp_path / "file" / "cache"), bytes=1))


def test_what_else_lies_in_the_folder_is_not_touched(origin: LocalStore, tmp_path: Path) -> None:
    """A mounted disk has a folder lost+found; other users of it have files."""
    disk = tmp_path / "nvme"
    others = [disk / "thesis.tex", disk / ("0" * 64), disk / FOLDER / "notes"]
    (disk / "lost+found").mkdir(parents=True)
    (disk / FOLDER / ("a" * 64)).mkdir(parents=True)
    for path in others:
        path.write_bytes(bytes(MEBI))
        os.utime(path, (0, 0))
    many = {f"{i}.tar": shard_of(origin.root, f"{i}.tar", MEBI) for i in range(6)}
    cached = CachedShards(origin, many, Cache(folder=str(disk), bytes=2 * MEBI))
    for name in many:
        cached.read_range(name, 0, MEBI)
    assert many["0.tar"].sha256 not in {path.name for path in (disk / FOLDER).iterdir()}
    assert all(path.stat().st_size == MEBI for path in others)
    assert (disk / "lost+found").is_dir()
    assert (disk / FOLDER / ("a" * 64)).is_dir()


def test_a_shard_that_another_process_forgets_while_room_is_made_is_no_failure(
    origin: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Logs
) -> None:
    many = {f"{i}.tar": shard_of(origin.root, f"{i}.tar", MEBI) for i in range(4)}
    cached = CachedShards(origin, many, Cache(folder=str(tmp_path / "c"), bytes=2 * MEBI))
    lstat = Path.lstat

    def gone(path: Path) -> os.stat_result:
        if path.name == many["1.tar"].sha256:
            path.unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", gone)
    for name in many:
        assert cached.read_range(name, 0, MEBI) == (origin.root / name).read_bytes()
    assert not caplog.records


@pytest.mark.parametrize("broken", ["open", "pread", "pwrite", "utime"])
def test_a_disk_that_fails_costs_the_cache_and_not_the_read(
    origin: LocalStore,
    shards: dict[str, Shard],
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Logs,
    broken: str,
) -> None:
    cached = CachedShards(origin, shards, cache)
    works = getattr(os, broken)

    def fail(target: object, *more: object, **named: object) -> object:
        if isinstance(target, Path | str) and FOLDER not in str(target):
            return works(target, *more, **named)  # the origin's
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        found = [cached.read_range("a.tar", 7, 2 * MEBI) for _ in range(3)]
        cached.forget("a.tar")
    assert found == [(origin.root / "a.tar").read_bytes()[7 : 2 * MEBI]] * 3
    (said,) = caplog.messages  # once
    assert "Input/output error" in said
    assert str(origin.uri) in said


def test_a_file_that_was_cut_short_is_read_from_the_origin(
    origin: LocalStore, shards: dict[str, Shard], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = CachedShards(origin, shards, cache)
    cached.read_range("a.tar", 0, MEBI)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, count, at: pread(file, count, at)[:-1])
    assert cached.read_range("a.tar", 0, MEBI) == (origin.root / "a.tar").read_bytes()[:MEBI]
