"""`export.py --push`: the real client, against a small Hub on loopback.

The client is told to use git LFS, as with a Hub of one's own: the storage of huggingface.co (xet)
cannot be stood in for.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from pipelines.exporting.command import main
from pipelines.lineage.source import open_source
from tests.pipelines.conftest import Said
from tests.pipelines.support.hub_server import running_hub
from tests.pipelines.support.hub_writes import COMMIT, Writes
from tests.pipelines.support.photographs import MODEL, Photos

TOKEN = "hf_of-a-test-0123456789"
Export = Callable[..., Said]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writes]:
    """A Hub that takes pushes with a token, which is set."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    writes = Writes(tmp_path / "hub", TOKEN)
    with running_hub({}, writes) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield writes


@pytest.fixture
def export(called: Callable[..., Said], photos: Photos, tmp_path: Path) -> Export:
    def call(out: str, push: str) -> Said:
        usual = ("--run", "photos", "--to", "timm", "--out", str(tmp_path / out))
        said = called(main, "export", *photos.place(), *usual, "--push", push)
        assert TOKEN not in said.out + said.err
        return said

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_push_is_one_commit_that_can_be_trained_from(
    hub: Writes, export: Export, tmp_path: Path
) -> None:
    said = export("out", "hf://me/photos")
    assert said.code == 0, said.err
    assert f"export: pushed to hf://me/photos@{COMMIT}" in said.out.splitlines()
    assert contents(tmp_path / "hub/me/photos") == contents(tmp_path / "out")
    assert {"model.safetensors", "config.json", "README.md"} == contents(tmp_path / "out").keys()
    ((repository,), (commit,)) = hub.created, hub.commits
    assert (repository["organization"], repository["name"]) == ("me", "photos")
    assert repository.get("visibility", repository.get("private")) in ("private", True)
    assert commit["summary"].startswith("finetune ")
    with open_source(f"hf://me/photos@{COMMIT}") as source:
        assert source.inferred().config == MODEL

    assert export("again", "hf://me/photos").code == 0  # the repository is there already
    assert (len(hub.created), len(hub.commits)) == (1, 2)


def test_without_a_token_nothing_is_written(
    hub: Writes, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in (None, "hf_of-somebody-else"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN")
        said = export("out", "hf://me/photos")
        assert said.code == 2
        assert said.err.startswith("error: --push hf://me/photos: you may not write there (401)")
        assert said.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
        assert token is None or token not in said.out + said.err


def test_a_commit_that_fails_leaves_the_folder_and_says_how_to_push_it(
    hub: Writes, export: Export, tmp_path: Path
) -> None:
    hub.takes_commits = False
    said = export("out", "hf://me/photos")
    assert said.code == 2
    assert f"hf upload me/photos {tmp_path}/out" in said.err
    assert "(403)" in said.err
    assert "model.safetensors" in contents(tmp_path / "out")


def test_a_hub_that_does_not_answer_is_an_outage_before_anything_is_written(
    hub: Writes, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    said = export("out", "hf://me/photos")
    assert said.code == 1
    assert said.err.startswith("error: --push hf://me/photos: the Hub does not answer")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["me/photos", "hf://photos", "hf://me/photos@main", "s3://a/b"])
def test_a_wrong_address_is_one_line(hub: Writes, export: Export, address: str) -> None:
    said = export("out", address)
    assert said.code == 2
    assert said.err == f"error: --push {address}: wanted hf://ORG/NAME\n"
