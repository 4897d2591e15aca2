"""The index of a split in a bucket: fetched once a machine, however many processes want it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.local.s3 import S3Server
from storage.dataset import Dataset, IndexFile, Shard
from storage.errors import BadDataset
from storage.index import INDEX_ROW, _map_index, load_index, save_index
from storage.index_files import check_once
from storage.objects import open_store
from storage.order import natural_run

OPEN = """
import sys
from storage.dataset import IndexFile
from storage.index_files import local_index
from storage.objects import open_store
store = open_store(sys.argv[1])
file = IndexFile(name="index-train.npy", bytes=int(sys.argv[2]), sha256=sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
local_index(store, file)
print(store.traffic.bytes)
"""


def test_processes_that_open_it_at_once_fetch_it_once(s3: S3Server, tmp_path: Path) -> None:
    path = save_index(tmp_path, "train", np.zeros(1_000_000, dtype=INDEX_ROW))
    file = IndexFile.of(path)
    uri = s3.uri("index-once")
    open_store(uri).upload(path.name, path)
    (tmp_path / "tmp").mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, uri, str(file.bytes), file.sha256],
            env={**s3.variables, "TMPDIR": str(tmp_path / "tmp")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for each in processes:
        assert each.stdout
        assert each.stdout.readline() == "ready\n"
    for each in processes:
        assert each.stdin
        each.stdin.write("go\n")
        each.stdin.flush()
    read = sorted(int(each.communicate(timeout=60)[0]) for each in processes)
    assert read == [0, 0, 0, file.bytes]


@pytest.mark.parametrize("shuffled", [True, False])
def test_a_few_pages_of_a_large_index_say_how_long_runs_may_be(shuffled: bool) -> None:
    labels = np.repeat(np.arange(1000, dtype=np.int32), 2000)
    if shuffled:
        labels = np.random.default_rng(0).permutation(labels)
    looked_at = Watched(labels)
    assert natural_run(looked_at, global_batch=4096) == (16 if shuffled else 1)  # type: ignore
    pages = np.unique(np.concatenate(looked_at.asked) * INDEX_ROW.itemsize // 4096)
    assert len(pages) <= 2 * 1024  # of the 15,625 that it has


def test_looking_at_a_few_places_of_an_index_reads_little_of_it(tmp_path: Path) -> None:
    rows = np.zeros(8_000_000, dtype=INDEX_ROW)  # 256 MB
    rows["offset"] = 512
    path = save_index(tmp_path, "train", rows)
    shard = Shard(name="a.tar", bytes=512, samples=len(rows), sha256="")
    wanted = str(tmp_path), IndexFile.of(path), (shard,), 1
    _map_index(*wanted)  # checks it, once per machine
    _map_index.cache_clear()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mapped = _map_index(*wanted)
    before = read_from_disk()
    natural_run(mapped["label"], global_batch=4096)
    read = read_from_disk() - before
    if not read:
        pytest.skip("a file system in memory")
    assert read < 32 << 20


def read_from_disk() -> int:
    """Bytes, by this process."""
    return int(Path("/proc/self/io").read_text().split("\nread_bytes: ")[1].split()[0])


class Watched:
    """Labels that note which of them were looked at."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels, self.asked = labels, []

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: np.ndarray) -> np.ndarray:
        self.asked.append(which)
        return self.labels[which]


def dataset_of(folder: Path, rows: np.ndarray, **shard: int) -> Dataset:
    """One shard of 2 classes, of which only the index is there."""
    facts = {"bytes": 4096, "samples": len(rows), **shard}
    return Dataset(
        uri=str(folder),
        classes=("cat", "dog"),
        splits={"train": (Shard(name="train-000000.tar", sha256="", **facts),)},
        indexes={"train": IndexFile.of(save_index(folder, "train", rows))},
    )


def rows_of(**columns: int) -> np.ndarray:
    rows = np.zeros(3, dtype=INDEX_ROW)
    rows["offset"], rows["size"] = 512, 100
    for name, value in columns.items():
        rows[name][1] = value
    return rows


def test_a_label_that_was_flipped_on_a_local_disk_is_noticed(tmp_path: Path) -> None:
    """Only its size was looked at: the wrong label was trained on forever."""
    dataset = dataset_of(tmp_path, rows_of(label=1))
    path = tmp_path / "index-train.npy"
    data = bytearray(path.read_bytes())
    assert data[-1 - 32 - 3] == 1
    data[-1 - 32 - 3] = 0
    path.write_bytes(data)
    with pytest.raises(BadDataset, match=r"index-train\.npy has sha256 .*its manifest says"):
        load_index(dataset, "train")


@pytest.mark.parametrize(
    "columns",
    [
        {"label": 2},
        {"label": -1},
        {"shard": 1},
        {"offset": 0},
        {"offset": 4000},
        {"offset": 2**64 - 1},
        {"size": 2**32 - 1},
    ],
    ids=str,
)
def test_a_row_that_points_nowhere_is_named(tmp_path: Path, columns: dict[str, int]) -> None:
    dataset = dataset_of(tmp_path, rows_of(**columns))
    with pytest.raises(BadDataset, match=r"index-train\.npy: sample 1 has label"):
        load_index(dataset, "train")


def test_a_file_is_checked_once_per_machine_and_again_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "index.npy"
    path.write_bytes(b"1")
    checked: list[str] = []
    for _ in range(2):
        check_once(path, "aa", lambda: checked.append("first"))
    path.write_bytes(b"22")
    check_once(path, "aa", lambda: checked.append("replaced"))
    check_once(path, "bb", lambda: checked.append("another promise"))

    def fail() -> None:
        checked.append("failed")
        raise BadDataset("wrong")

    for _ in range(2):
        with pytest.raises(BadDataset):
            check_once(path, "cc", fail)
    assert checked == ["first", "replaced", "another promise", "failed", "failed"]
