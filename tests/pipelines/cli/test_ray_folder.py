"""A folder for a local Ray, where the environment names one that is too long or not writable."""

import os
from pathlib import Path

import pytest

from cluster.errors import BadPlace
from pipelines.cli import ray_folder as module
from pipelines.cli.ray_folder import LONGEST_BYTES, ray_folder


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short folder, removed afterwards; no RAY_TMPDIR."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    return Path("/tmp")


def test_a_short_folder_is_used_as_it_is(
    short: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(short))
    assert ray_folder() == "/tmp/ray"
    assert capsys.readouterr().err == ""


def test_a_long_folder_is_replaced_and_said(
    short: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
    used = ray_folder()
    assert used == f"/tmp/vit-on-ray-{os.getuid()}/ray"
    assert len(used) <= LONGEST_BYTES
    said = capsys.readouterr().err
    assert "is too long for Ray's sockets" in said
    assert used in said


def test_a_folder_that_cannot_be_written_is_replaced(
    short: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", "/dev/null")
    assert ray_folder() == f"/tmp/vit-on-ray-{os.getuid()}/ray"
    assert "/dev/null/ray cannot be written (Not a directory)" in capsys.readouterr().err


def test_where_neither_will_do_the_way_out_is_named(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "trouble", lambda folder: f"{folder} cannot be written")
    with pytest.raises(BadPlace, match="set RAY_TMPDIR to a writable folder"):
        ray_folder()
