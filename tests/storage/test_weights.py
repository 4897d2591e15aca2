from pathlib import Path

import pytest
import torch

from storage.errors import BadInput, CorruptWeights, WeightsExist, WeightsNotFound
from storage.objects import open_store
from storage.uri import join
from storage.weights import commit, committed, read_manifest, read_weights
from tests.s3 import S3Server

TENSORS = {"pos_embed": torch.arange(12.0).reshape(1, 3, 4), "head.weight": torch.zeros(2, 4)}


def test_weights_come_back_with_their_manifest(place: str) -> None:
    written = commit(place, TENSORS, {"step": 7})
    tensors, manifest = read_weights(place)
    assert manifest == written
    assert manifest["step"] == 7
    assert set(tensors) == set(TENSORS)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_weights_come_back_from_s3(s3: S3Server, tmp_path: Path) -> None:
    uri = s3.uri("weights", tmp_path.name, "pretrain", "abc")
    commit(uri, TENSORS, {"step": 7}, ema={"pos_embed": TENSORS["pos_embed"] * 2})
    assert torch.equal(read_weights(uri)[0]["pos_embed"], TENSORS["pos_embed"])
    ema, _ = read_weights(uri, name="weights_ema")
    assert torch.equal(ema["pos_embed"], TENSORS["pos_embed"] * 2)
    parent = s3.uri("weights", tmp_path.name, "pretrain")
    assert [name for name, _ in committed(parent)] == ["abc"]


def test_views_and_slices_are_stored_as_they_look(place: str) -> None:
    whole = torch.arange(8.0)
    commit(place, {"a": whole[::2], "b": whole, "c": whole.reshape(2, 4).T}, {})
    tensors, _ = read_weights(place)
    assert tensors["a"].tolist() == [0, 2, 4, 6]
    assert torch.equal(tensors["c"], whole.reshape(2, 4).T)


def test_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    one, other = (commit(str(tmp_path / name), TENSORS, {}) for name in "ab")
    assert one == other


def test_latest_ignores_weights_without_manifest(place: str) -> None:
    commit(join(place, "b"), TENSORS, {"step": 2})
    commit(join(place, "a"), TENSORS, {"step": 1})
    commit(join(place, "killed"), TENSORS, {})
    open_store(place).delete("killed/manifest.json")
    open_store(place).write("deeper/x/manifest.json", b"{}")
    assert [(name, manifest["step"]) for name, manifest in committed(place)] == [("a", 1), ("b", 2)]


def test_nothing_committed_is_said_with_the_place(place: str) -> None:
    assert read_manifest(place) is None
    assert committed(place) == []
    with pytest.raises(WeightsNotFound, match=f"no committed weights under {place}"):
        read_weights(place)


def test_a_commit_is_never_overwritten(place: str) -> None:
    commit(place, TENSORS, {"step": 1})
    with pytest.raises(WeightsExist, match="committed already"):
        commit(place, TENSORS, {"step": 2})
    manifest = read_manifest(place)
    assert manifest is not None
    assert manifest["step"] == 1


@pytest.mark.parametrize("cut", [0, 1, 7, 100, -1])
def test_torn_weights_are_named(place: str, cut: int) -> None:
    commit(place, TENSORS, {})
    path = Path(place) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CorruptWeights, match=r"weights\.safetensors has \d+ bytes"):
        read_weights(place)


def test_a_flipped_bit_is_named(place: str) -> None:
    commit(place, TENSORS, {})
    path = Path(place) / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptWeights, match=r"weights\.safetensors has sha256"):
        read_weights(place)


def test_missing_weights_file_is_named(place: str) -> None:
    commit(place, TENSORS, {})
    (Path(place) / "weights.safetensors").unlink()
    with pytest.raises(CorruptWeights, match=r"weights\.safetensors is missing"):
        read_weights(place)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": {"weights.safetensors": {}}}'])
def test_garbled_manifest_is_named(place: str, text: str) -> None:
    commit(place, TENSORS, {})
    (Path(place) / "manifest.json").write_text(text)
    with pytest.raises(CorruptWeights, match=r"manifest\.json is not a manifest"):
        read_weights(place)


def test_other_types_than_float32_are_refused_by_name(place: str) -> None:
    with pytest.raises(BadInput, match=r"'head\.bias' .* torch\.bfloat16"):
        commit(place, {"head.bias": torch.zeros(2, dtype=torch.bfloat16)}, {})


def test_average_that_was_not_kept_is_named(place: str) -> None:
    commit(place, TENSORS, {})
    with pytest.raises(WeightsNotFound, match=r"has no weights_ema\.safetensors; it has weights"):
        read_weights(place, name="weights_ema")
