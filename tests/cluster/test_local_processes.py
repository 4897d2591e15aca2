"""What the laptop cluster ends: all that it started, and nothing else."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster.errors import BadPlace
from cluster.local.head import Nodes
from cluster.local.laptop import down, status, up
from cluster.local.processes import FILE, Started, State, end, family, read_state

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# starts a child in a session of its own, then ends: the child belongs to nobody
ORPHAN = [
    sys.executable,
    "-c",
    "import subprocess, sys;"
    "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=True).pid, flush=True)",
]


def state(tmp_path: Path) -> State:
    return State(scratch=str(tmp_path / "scratch"), ports={})


def environment() -> dict[str, str]:
    return dict(os.environ)


def test_end_finds_children_that_belong_to_nobody_and_leaves_others_alone(tmp_path: Path) -> None:
    mine, stranger = state(tmp_path), subprocess.Popen(SLEEP)
    try:
        mine.start("sleep", SLEEP, environment(), tmp_path)
        mine.start("orphan", ORPHAN, environment(), tmp_path)
        deadline = time.monotonic() + 30
        while not (tmp_path / "orphan.log").read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        orphan = int((tmp_path / "orphan.log").read_text())
        found = {each.pid for each in family(mine)}
        assert {mine.started["sleep"].pid, orphan} <= found
        assert stranger.pid not in found
        assert end(mine) >= 2
        assert family(mine) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_later_process_with_the_same_id_is_not_ours(tmp_path: Path) -> None:
    other = psutil.Process()
    assert Started(other.pid, other.create_time()).find() is not None
    stale = state(tmp_path)
    stale.started["ray"] = Started(other.pid, other.create_time() - 100)
    assert stale.missing() == ["ray"]
    assert family(stale) == []
    assert end(stale) == 0  # or this test would not see its own end


def test_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    mine = state(tmp_path)
    mine.start("sleep", SLEEP, environment(), tmp_path)
    try:
        assert read_state(tmp_path) == mine
        assert "sleep   runs" in status(tmp_path)
    finally:
        end(mine)
    assert "sleep   ended" in status(tmp_path)
    assert down(tmp_path, delete=False) == "ended 0 processes"
    assert status(tmp_path).startswith("down")


@pytest.mark.parametrize("content", ["", "[]", '{"started": {"ray": {"pid": 1}}}', '{"ports": {}}'])
def test_a_damaged_state_file_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(BadPlace, match=f"{tmp_path / FILE}.*VIT_ON_RAY_LOCAL"):
        read_state(tmp_path)


def test_a_cluster_that_lost_a_part_is_refused(tmp_path: Path) -> None:
    mine = state(tmp_path)
    mine.start("sleep", SLEEP, environment(), tmp_path)
    try:
        mine.started["mlflow"] = Started(mine.started["sleep"].pid, 1.0)
        mine.write(tmp_path)
        with pytest.raises(BadPlace, match=r"mlflow of the cluster .*cluster\.local down"):
            up(tmp_path, Nodes())
    finally:
        end(mine)


def test_other_peoples_folders_are_neither_used_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BadPlace, match="other content"):
        up(tmp_path, Nodes())
    with pytest.raises(BadPlace, match="other content"):
        down(tmp_path, delete=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_mistake_is_one_line_and_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster.local", "up", "--nodes", "0", "--folder"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "at least 1 node" in done.stderr


def test_a_server_that_does_not_come_up_takes_the_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho no room left >&2\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr("cluster.local.laptop.find_weed", lambda: str(broken))
    monkeypatch.setattr("cluster.local.head.command", lambda *a, **k: SLEEP)
    monkeypatch.setattr("cluster.local.laptop.mlflow_command", lambda *a: SLEEP)
    folder = tmp_path / "cluster"
    with pytest.raises(RuntimeError, match=r"s3 did not start.*no room left"):
        up(folder, Nodes())
    assert not (folder / FILE).exists()
    left = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
    assert not any(SLEEP[-1] in each.cmdline() for each in left)
    assert json.loads((folder / "s3.json").read_text())  # keys stay, so that data can be read
