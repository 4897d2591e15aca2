"""The same facts of both stores: a directory and a real S3 server."""

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local.s3 import S3Server
from storage.errors import (
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    Unavailable,
)
from storage.objects import open_store
from storage.store import ObjectStore
from tests.storage.support.full_disk import full_disk


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "local":
        yield open_store(str(tmp_path / "store"))
        return
    server: S3Server = request.getfixturevalue("s3_server")
    with server.environment():
        yield open_store(server.uri("objects", tmp_path.name))


def test_bytes_come_back(store: ObjectStore) -> None:
    store.write("a/b", b"hello")
    assert store.read("a/b") == b"hello"
    assert store.size("a/b") == 5
    assert store.exists("a/b")


def test_empty_object(store: ObjectStore) -> None:
    store.write("empty", b"")
    assert store.read("empty") == b""


def test_range_is_exact(store: ObjectStore) -> None:
    store.write("x", bytes(range(100)))
    assert store.read_range("x", 10, 20) == bytes(range(10, 20))


@pytest.mark.parametrize(("start", "stop"), [(90, 101), (100, 101), (200, 300)])
def test_range_beyond_the_end_is_an_error_not_a_short_read(
    store: ObjectStore, start: int, stop: int
) -> None:
    store.write("x", bytes(100))
    with pytest.raises(ObjectChanged, match="shorter than its index says"):
        store.read_range("x", start, stop)


def test_missing_object_is_named(store: ObjectStore) -> None:
    for verb in (store.read, store.size):
        with pytest.raises(ObjectNotFound, match=r"no (object|file) .*nothing/here"):
            verb("nothing/here")
    assert not store.exists("nothing/here")


def test_write_replaces(store: ObjectStore) -> None:
    store.write("x", b"one")
    store.write("x", b"two")
    assert store.read("x") == b"two"


def test_if_absent_refuses_other_bytes_and_keeps_the_first(store: ObjectStore) -> None:
    store.write("lease", b"first", if_absent=True)
    with pytest.raises(ObjectExists, match="lease already exists"):
        store.write("lease", b"second", if_absent=True)
    assert store.read("lease") == b"first"


def test_if_absent_takes_the_same_bytes_as_written(store: ObjectStore) -> None:
    store.write("lease", b"first", if_absent=True)
    store.write("lease", b"first", if_absent=True)


def test_if_absent_lets_exactly_one_of_many_writers_win(store: ObjectStore) -> None:
    won: list[int] = []

    def write(i: int) -> None:
        try:
            store.write("race", str(i).encode(), if_absent=True)
        except ObjectExists:
            return
        won.append(i)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(i).encode() for i in won] == [store.read("race")]


def test_list_is_by_prefix(store: ObjectStore) -> None:
    for key in ("b/2", "a", "b/10", "b-x", "c/d/e"):
        store.write(key, b"")
    assert sorted(store.list()) == ["a", "b-x", "b/10", "b/2", "c/d/e"]
    assert sorted(store.list("b/")) == ["b/10", "b/2"]
    assert sorted(store.list("b")) == ["b-x", "b/10", "b/2"]
    assert list(store.list("zzz/")) == []


def test_delete_is_silent_about_nothing(store: ObjectStore) -> None:
    store.write("x", b"1")
    store.delete("x")
    store.delete("x")
    assert not store.exists("x")


def test_files_go_up_and_down_whole(store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(20 << 20)  # more than one part
    (tmp_path / "up").write_bytes(data)
    store.upload("big", tmp_path / "up")
    store.download("big", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["down", "up"]


def test_a_local_disk_that_is_full_is_named_and_nothing_is_left(
    store: ObjectStore, tmp_path: Path
) -> None:
    """The last write was cut short without an error: the object looked shorter than it is."""
    store.write("x", os.urandom(3 << 20))
    (tmp_path / "tmp").mkdir()
    with full_disk(1 << 20), pytest.raises(Unavailable, match=r"tmp/x: this machine's disk"):
        store.download("x", tmp_path / "tmp" / "x")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_store_survives_pickling_after_use(store: ObjectStore) -> None:
    store.write("x", b"1")
    assert pickle.loads(pickle.dumps(store)).read("x") == b"1"


def test_probe_leaves_nothing(store: ObjectStore) -> None:
    store.check_writable()
    assert list(store.list()) == []
