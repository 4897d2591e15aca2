"""Checkpoints of the Hub, by the real client, from a server on loopback."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from pipelines.lineage import hub
from pipelines.lineage.source import open_source
from pipelines.recipes.errors import Mistake
from storage.errors import Unavailable
from tests.pipelines.support.hub_server import COMMIT, running_hub
from vit import ViTConfig, build_model, export_timm, import_checkpoint

SMALL = ViTConfig(
    image_size=16, patch_size=4, width=32, depth=1, heads=2, mlp_dim=64, num_classes=7
)


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Hub with timm/tiny (a ViT as timm publishes it) and org/empty (a README alone)."""
    folder, empty = tmp_path / "tiny", tmp_path / "empty"
    export_timm(build_model(SMALL, seed=5).state_dict(), SMALL, folder)
    (folder / "README.md").write_text("# tiny\n")
    empty.mkdir()
    (empty / "README.md").write_text("# nothing\n")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with running_hub({"timm/tiny": folder, "org/empty": empty}) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield url


@pytest.mark.parametrize("uri", ["hf://timm/tiny", "timm://tiny", f"hf://timm/tiny@{COMMIT}"])
def test_a_checkpoint_is_pinned_to_its_commit_and_read(endpoint: str, uri: str) -> None:
    with open_source(uri) as source:
        assert source.uri == f"hf://timm/tiny@{COMMIT}"
        assert source.inferred().config == SMALL
        assert source.checkpoint is not None
        tensors, _ = import_checkpoint(source.checkpoint, SMALL)
    wanted = build_model(SMALL, seed=5).state_dict()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


def test_a_commit_in_the_cache_needs_no_server(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub.fetched(f"hf://timm/tiny@{COMMIT}")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.fetched(f"hf://timm/tiny@{COMMIT}") == folder
    with open_source(f"hf://timm/tiny@{COMMIT}") as source:  # a worker, or the next command
        assert (source.uri, source.checkpoint) == folder
    with pytest.raises(Unavailable, match="hf://timm/tiny: the Hub does not answer"):
        hub.fetched("hf://timm/tiny")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hf://timm/nothing", "no such repository"),
        ("hf://timm/tiny@v9", "no such revision"),
        ("hf://tiny", "wanted hf://ORG/NAME"),
        ("hf://a/b/../c", "wanted hf://ORG/NAME"),
        ("hf://org/empty", r"no safetensors.*README\.md"),
    ],
)
def test_a_wrong_address_is_one_line(endpoint: str, uri: str, said: str) -> None:
    with pytest.raises(Mistake, match=said) as caught:
        hub.fetched(uri)
    assert str(caught.value).startswith(f"init {uri}: ")
    assert "\n" not in str(caught.value)
