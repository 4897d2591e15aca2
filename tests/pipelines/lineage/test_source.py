"""A stage starts from a committed stage or from a public checkpoint, local or on S3."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.local.s3 import S3Server
from pipelines.lineage.source import (
    committed_source,
    downloads_kept,
    init_digest,
    open_source,
)
from pipelines.recipes.fingerprint import plain
from pipelines.recipes.stage import Stage
from storage import weights
from storage.errors import WeightsNotFound
from storage.objects import open_store
from vit import ViTConfig, build_model, export_timm

SMALL = ViTConfig(
    image_size=16, patch_size=4, width=32, depth=1, heads=2, mlp_dim=48, num_classes=5
)
LARGER = replace(SMALL, image_size=24, num_classes=3)
KEPT = "blocks.0.attn.qkv.weight"
Started = tuple[dict[str, torch.Tensor], tuple[str, ...]]


def start_weights(uri: str, model: ViTConfig, **settings: Any) -> Started:
    with open_source(uri) as source:
        return source.start_weights(Stage(name="finetune", model=model, **settings))


def test_a_committed_stage_is_adapted_to_the_new_model(tmp_path: Path) -> None:
    tensors = build_model(SMALL, seed=1).state_dict()
    weights.commit(str(tmp_path / "a"), tensors, {"stage": {"model": plain(asdict(SMALL))}})
    found, changes = start_weights(str(tmp_path / "a"), LARGER)
    assert found[KEPT].equal(tensors[KEPT])
    assert found["pos_embed"].shape == (1, 1 + 6 * 6, 32)
    assert not found["head.weight"].any()
    assert changes == ("pos_embed 4x4 -> 6x6", "head 5 -> 3: reset")


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_a_public_checkpoint_is_read_from_disk_and_from_s3(
    tmp_path: Path, s3_server: S3Server, file: str
) -> None:
    model = build_model(SMALL, seed=1)
    export_timm(model.state_dict(), SMALL, tmp_path / "timm")
    local, changes = start_weights(str(tmp_path / "timm" / file).rstrip("/"), SMALL)
    assert local[KEPT].equal(model.state_dict()[KEPT])
    assert any("timm" in change for change in changes)
    with s3_server.environment():
        store = open_store(s3_server.uri("public"))
        for path in (tmp_path / "timm").iterdir():
            store.upload(path.name, path)
        remote, _ = start_weights(s3_server.uri("public", file).rstrip("/"), SMALL)
    assert local.keys() == remote.keys()
    assert all(torch.equal(local[name], remote[name]) for name in local)


def test_a_checkpoint_on_s3_is_downloaded_once_for_all_checks_of_a_command(
    tmp_path: Path, s3_server: S3Server
) -> None:
    export_timm(build_model(SMALL, seed=1).state_dict(), SMALL, tmp_path / "timm")
    with s3_server.environment():
        store = open_store(s3_server.uri("once"))
        for path in (tmp_path / "timm").iterdir():
            store.upload(path.name, path)
        uri = s3_server.uri("once").rstrip("/")
        with downloads_kept():
            with open_source(uri) as first:
                kept = first.checkpoint
            with downloads_kept(), open_source(uri) as second:
                assert second.checkpoint == kept
            assert kept is not None
            assert kept.exists()
        assert not kept.exists()
        with open_source(uri) as third:
            assert third.checkpoint != kept


@pytest.mark.parametrize("remote", [False, True], ids=["disk", "s3"])
def test_the_config_beside_a_renamed_file_counts(
    tmp_path: Path, s3_server: S3Server, remote: bool
) -> None:
    export_timm(build_model(SMALL, seed=1).state_dict(), SMALL, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "vit.safetensors")
    uri = str(tmp_path / "vit.safetensors")
    with s3_server.environment():
        if remote:
            store = open_store(s3_server.uri("renamed"))
            for path in tmp_path.iterdir():
                store.upload(path.name, path)
            uri = s3_server.uri("renamed", "vit.safetensors")
        _, notes = start_weights(uri, SMALL)
    assert "config.json beside vit.safetensors read" in notes
    assert not any("--stage.init-mean" in note for note in notes)


def test_a_head_of_as_many_classes_is_reset_where_the_stage_says_so(tmp_path: Path) -> None:
    tensors = build_model(SMALL, seed=1).state_dict()
    tensors["head.weight"] += 1
    weights.commit(str(tmp_path / "a"), tensors, {"stage": {"model": plain(asdict(SMALL))}})
    kept, _ = start_weights(str(tmp_path / "a"), SMALL)
    reset, changes = start_weights(str(tmp_path / "a"), SMALL, reset_head=True)
    assert kept["head.weight"].equal(tensors["head.weight"])
    assert not reset["head.weight"].any()
    assert changes == ("head of 5 classes: reset",)


def test_a_checkpoint_on_s3_is_downloaded_once(tmp_path: Path, s3_server: S3Server) -> None:
    tensors = build_model(SMALL, seed=1).state_dict()
    export_timm(tensors, SMALL, tmp_path)
    local = init_digest(str(tmp_path))
    with s3_server.environment():
        store = open_store(s3_server.uri("once"))
        for path in tmp_path.iterdir():
            store.upload(path.name, path)
        with open_source(store.uri) as source:
            for path in tmp_path.iterdir():
                store.delete(path.name)
            found, _ = source.start_weights(Stage(name="finetune", model=SMALL))
            assert source.digest() == local
    assert found[KEPT].equal(tensors[KEPT])


def test_the_manifest_of_committed_weights_is_read_once(tmp_path: Path) -> None:
    model = build_model(SMALL, seed=1)
    weights.commit(str(tmp_path), model.state_dict(), {"stage": {"model": plain(asdict(SMALL))}})
    source = committed_source(str(tmp_path))
    (tmp_path / weights.MANIFEST).unlink()
    assert source.model().state_dict()[KEPT].equal(model.state_dict()[KEPT])
    with pytest.raises(WeightsNotFound, match=r"no weights_ema\.safetensors"):
        source.tensors(name="weights_ema")
    with pytest.raises(WeightsNotFound, match=weights.MANIFEST):
        committed_source(str(tmp_path))


def test_a_missing_checkpoint_is_named(tmp_path: Path, s3_server: S3Server) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.npz: no such file or folder"):
        start_weights(str(tmp_path / "nowhere.npz"), SMALL)
    with s3_server.environment(), pytest.raises(ValueError, match="nowhere"):
        start_weights(s3_server.uri("nowhere"), SMALL)
    with s3_server.environment(), pytest.raises(ValueError, match=r"nowhere\.npz"):
        start_weights(s3_server.uri("nowhere.npz"), SMALL)


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    export_timm(build_model(SMALL, seed=1).state_dict(), SMALL, tmp_path / "timm")
    with pytest.raises(ValueError, match=r"depth 1 into 2.*--stage\.model\.depth 1"):
        start_weights(str(tmp_path / "timm"), replace(SMALL, depth=2))


def test_bare_weights_of_another_resolution_are_resized(tmp_path: Path) -> None:
    model = build_model(SMALL, seed=1)
    export_timm(model.state_dict(), SMALL, tmp_path / "timm")
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((tmp_path / "timm" / "model.safetensors").read_bytes())
    larger = replace(SMALL, image_size=24)
    _, notes = start_weights(str(bare), larger)
    assert any("square grid 4x4 (16 pixels)" in note for note in notes)
    found, changes = start_weights(str(bare), larger, init_image_size=16)
    assert "pos_embed 4x4 -> 6x6" in changes
    assert found["pos_embed"].shape == (1, 1 + 6 * 6, 32)


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_a_checkpoint_that_moves_is_the_same_and_a_replaced_one_is_not(
    tmp_path: Path, s3_server: S3Server, file: str
) -> None:
    def exported(name: str, seed: int) -> str:
        export_timm(build_model(SMALL, seed=seed).state_dict(), SMALL, tmp_path / name)
        return str(tmp_path / name / file).rstrip("/")

    first = init_digest(exported("a", 1))
    assert init_digest(exported("elsewhere", 1)) == first
    with s3_server.environment():
        store = open_store(s3_server.uri("moved"))
        for path in (tmp_path / "a").iterdir():
            store.upload(path.name, path)
        assert init_digest(s3_server.uri("moved", file).rstrip("/")) == first
    assert init_digest(exported("a", 2)) != first  # the same path, other weights
    assert init_digest(None) is None


def test_what_the_config_beside_a_checkpoint_says_is_part_of_its_content(tmp_path: Path) -> None:
    export_timm(build_model(SMALL, seed=1).state_dict(), SMALL, tmp_path)
    before = init_digest(str(tmp_path))
    (tmp_path / "README.md").write_text("says nothing about the weights")
    assert init_digest(str(tmp_path)) == before
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("0.5", "0.25"))  # pixels
    assert init_digest(str(tmp_path)) != before


def test_a_stage_of_another_place_is_named_by_its_weights(tmp_path: Path) -> None:
    tensors = build_model(SMALL, seed=1).state_dict()
    manifest = {"stage": {"model": plain(asdict(SMALL))}}
    made = weights.commit(str(tmp_path / "a"), tensors, manifest)
    assert init_digest(str(tmp_path / "a")) == made["files"]["weights.safetensors"]["sha256"]
