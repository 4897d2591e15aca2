"""What only directories do: hard links, failing folders, what killed writers leave behind."""

import errno
import os
from pathlib import Path

import pytest

from storage.errors import BadUri, NotWritable, ObjectExists, Unavailable
from storage.objects import open_store

ONE_WRITER = "VIT_ON_RAY_CONDITIONAL_WRITES"


def test_local_key_does_not_climb(tmp_path: Path) -> None:
    with pytest.raises(BadUri, match="outside of"):
        open_store(str(tmp_path)).read("../secret")


def test_local_root_that_is_a_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotWritable, match=r"storage root .*file cannot be written"):
        open_store(str(tmp_path / "file")).check_writable()


def test_killed_writer_leaves_nothing_to_see(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("x", b"1")
    (tmp_path / ".partial-deadbeef").write_bytes(b"half")
    assert list(store.list()) == ["x"]


@pytest.fixture
def without_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """FUSE, exFAT, SMB."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_a_root_without_hard_links_is_told_before_a_training(
    tmp_path: Path, without_hard_links: None
) -> None:
    with pytest.raises(NotWritable, match=f"no hard links .*{ONE_WRITER}=off"):
        open_store(str(tmp_path)).check_writable()
    assert list(tmp_path.iterdir()) == []


def test_one_writer_does_without_hard_links(
    tmp_path: Path, without_hard_links: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ONE_WRITER, "off")
    store = open_store(str(tmp_path))
    store.check_writable()
    store.write("x", b"1", if_absent=True)
    store.write("x", b"1", if_absent=True)
    with pytest.raises(ObjectExists):
        store.write("x", b"2", if_absent=True)
    assert store.read("x") == b"1"


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_failing_folder_is_no_empty_one(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume would begin at step 0, and what is committed would be trained again."""
    store = open_store(str(tmp_path))
    store.write("resume/step-00000100/manifest.json", b"{}")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", fail)
        with pytest.raises(Unavailable, match=os.strerror(code)):
            list(store.list())
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        with pytest.raises(Unavailable, match=os.strerror(code)):
            store.exists("resume/step-00000100/manifest.json")


def test_a_folder_that_is_not_there_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = open_store(str(tmp_path))
    assert list(store.list("nothing/")) == list(store.list("file/x")) == []
    assert not store.exists("file/x")


def test_a_sweep_removes_what_killed_writers_left(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "attempt"))
    store.write("manifest.json", b"{}")
    store.write("resume/step-00000100/manifest.json", b"{}")
    store.write("resume/step-00000200/manifest.json", b"{}")
    for place in ("resume/step-00000100", "resume/step-00000200", "."):
        (tmp_path / "attempt" / place / ".partial-deadbeef").write_bytes(b"half")
    store.delete("resume/step-00000100/manifest.json")
    store.sweep("resume/step-00000100")
    assert not (tmp_path / "attempt/resume/step-00000100").exists()
    assert (tmp_path / "attempt/resume/step-00000200/.partial-deadbeef").exists()
    store.sweep()
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert found == {"attempt/manifest.json", "attempt/resume/step-00000200/manifest.json"}
    open_store(str(tmp_path / "nothing")).sweep()
