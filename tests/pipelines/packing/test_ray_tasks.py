"""Packing's tasks on a real Ray."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import ray

from pipelines.packing import ray_tasks as packing_tasks
from pipelines.packing.ray_tasks import on_ray
from storage.errors import BadSource, Unavailable
from storage.pack import pack
from storage.pack.execute import Tally
from storage.pack.folder import Folder
from tests.storage.support.images import encoded, gradient
from tests.storage.test_pack import tree

PNG = encoded(gradient(8, 8), "PNG")


@pytest.fixture
def always(ray_session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little there is to do."""
    monkeypatch.setattr(packing_tasks, "WORTH_RAY_BYTES", 0)


def who(item: int) -> tuple[int, int]:
    return item, os.getpid()


def bad(item: int) -> int:
    if item == 3:
        raise BadSource(f"item {item} is odd")
    return item


def killed_once(folder: Path, item: int) -> int:
    marker = folder / f"{item}"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def down_once(folder: Path, item: int) -> int:
    marker = folder / f"{item}"
    if not marker.exists():
        marker.touch()
        raise Unavailable("S3 is down")
    return item


def test_every_item_is_done_once_in_other_processes(always: None) -> None:
    found = list(on_ray(who, range(40), work_bytes=1))
    assert sorted(item for item, _ in found) == list(range(40))
    assert os.getpid() not in {pid for _, pid in found}


@pytest.mark.parametrize("task", [killed_once, down_once])
def test_a_task_whose_process_dies_is_repeated(always: None, tmp_path: Path, task) -> None:
    found = list(on_ray(partial(task, tmp_path), range(3), work_bytes=1))
    assert sorted(found) == [0, 1, 2]


def test_what_a_task_raises_is_raised_as_it_was(always: None) -> None:
    with pytest.raises(BadSource) as caught:
        list(on_ray(bad, range(8), work_bytes=1))
    assert type(caught.value) is BadSource
    assert str(caught.value) == "item 3 is odd"


@pytest.mark.slow
def test_a_packer_that_is_killed_on_ray_is_continued(always: None, tmp_path: Path) -> None:
    """Its Ray dies with it; what its tasks finished is kept."""
    names = {f"{half}/c/{i}.png": PNG for half in ("train", "val") for i in range(2000)}
    source, place = Folder(tree(tmp_path / "in", names)), tmp_path / "place"
    code = (
        "import sys; from pipelines.packing import ray_tasks as on; on.WORTH_RAY_BYTES = 0;"
        "from storage.pack import pack; from storage.pack.folder import Folder;"
        "pack(Folder(sys.argv[1]), sys.argv[2], shard_bytes=40960, run=on.on_ray)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "in"), str(place)])
    try:
        deadline = time.monotonic() + 120
        while len(list(place.glob("*.packing"))) < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    time.sleep(5)  # its Ray ends
    done = {path: path.stat().st_mtime_ns for path in place.glob("*.packing")}
    tars = [path.with_suffix("") for path in done]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in tars]
    told: list[Tally] = []
    dataset = pack(source, str(place), shard_bytes=40960, run=on_ray, progress=told.append)
    assert told[0].found_shards == len(done) < told[0].total_shards
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in tars] == before
    assert dataset.digest == pack(source, str(tmp_path / "unbroken"), shard_bytes=40960).digest


@pytest.mark.parametrize(("items", "work_bytes"), [(range(1), 1 << 40), (range(9), 1 << 20)])
def test_little_work_starts_no_ray(
    items: range, work_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "init", lambda *a, **k: pytest.fail("a cluster was asked for"))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    found = list(on_ray(who, items, work_bytes=work_bytes))
    assert found == [(item, os.getpid()) for item in items]
