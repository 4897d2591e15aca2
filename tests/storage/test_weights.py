import json
from pathlib import Path

import pytest
import torch

from cluster.local.s3 import S3Server
from storage.commits import publish
from storage.errors import BadInput, CorruptWeights, Unavailable, WeightsExist, WeightsNotFound
from storage.local import LocalStore
from storage.objects import open_store
from storage.uri import join
from storage.weights import commit, committed, file_name, read_manifest, read_weights
from tests.storage.support.full_disk import full_disk

TENSORS = {"pos_embed": torch.arange(12.0).reshape(1, 3, 4), "head.weight": torch.zeros(2, 4)}


def path_of(place: str) -> Path:
    """The file of the weights."""
    manifest = read_manifest(place)
    assert manifest is not None
    return Path(place) / file_name(manifest)


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
    path = path_of(place)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CorruptWeights, match=r"weights-\w{12}\.safetensors has \d+ bytes"):
        read_weights(place)


def test_a_flipped_bit_is_named(place: str) -> None:
    commit(place, TENSORS, {})
    path = path_of(place)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptWeights, match=r"weights-\w{12}\.safetensors has sha256"):
        read_weights(place)


def test_missing_weights_file_is_named(place: str) -> None:
    commit(place, TENSORS, {})
    path_of(place).unlink()
    with pytest.raises(CorruptWeights, match=r"weights-\w{12}\.safetensors is missing"):
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


def test_of_two_writers_of_one_place_the_first_is_read_and_the_second_leaves_nothing(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one's weights replaced the first one's before it was refused."""
    other = {name: tensor + 1 for name, tensor in TENSORS.items()}
    upload = LocalStore.upload

    def and_the_other_commits(self: LocalStore, key: str, local_path: str | Path) -> None:
        upload(self, key, local_path)
        monkeypatch.setattr(LocalStore, "upload", upload)
        commit(place, TENSORS, {"step": 1})

    monkeypatch.setattr(LocalStore, "upload", and_the_other_commits)
    with pytest.raises(WeightsExist, match="by another writer at the same time"):
        commit(place, other, {"step": 2})
    tensors, manifest = read_weights(place)
    assert manifest["step"] == 1
    assert torch.equal(tensors["pos_embed"], TENSORS["pos_embed"])
    assert {path.name for path in Path(place).iterdir()} == {"manifest.json", path_of(place).name}


def test_two_writers_of_the_same_weights_agree(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = LocalStore.upload

    def and_the_other_commits(self: LocalStore, key: str, local_path: str | Path) -> None:
        upload(self, key, local_path)
        monkeypatch.setattr(LocalStore, "upload", upload)
        commit(place, TENSORS, {"started": "earlier"})

    monkeypatch.setattr(LocalStore, "upload", and_the_other_commits)
    with pytest.raises(WeightsExist):
        commit(place, TENSORS, {"started": "later"})
    assert torch.equal(read_weights(place)[0]["pos_embed"], TENSORS["pos_embed"])


def test_weights_of_an_older_version_are_read(place: str) -> None:
    """Their manifest does not name the file: weights.safetensors."""
    manifest = commit(place, TENSORS, {"step": 3}, ema=TENSORS)
    for file in ("weights.safetensors", "weights_ema.safetensors"):
        (Path(place) / file_name(manifest, file)).rename(Path(place) / file)
        del manifest["files"][file]["name"]
    (Path(place) / "manifest.json").write_text(json.dumps(manifest))
    assert torch.equal(read_weights(place)[0]["pos_embed"], TENSORS["pos_embed"])
    assert set(read_weights(place, name="weights_ema")[0]) == set(TENSORS)


@pytest.mark.parametrize("name", ["../x", "a/../b", "/a", "", ".", 7, None])
def test_a_manifest_that_names_another_place_is_refused(place: str, name: object) -> None:
    manifest = commit(place, TENSORS, {})
    manifest["files"]["weights.safetensors"]["name"] = name
    (Path(place) / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptWeights, match="is not a manifest"):
        read_weights(place)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_before_anything_is_written(
    place: str, value: float
) -> None:
    bad = {**TENSORS, "head.bias": torch.tensor([0.0, value])}
    with pytest.raises(BadInput, match=r"head\.bias hold NaN or infinite values"):
        commit(place, bad, {})
    with pytest.raises(BadInput, match=r"head\.bias hold NaN or infinite values"):
        commit(place, TENSORS, {}, ema=bad)
    assert not Path(place).exists()


def test_a_metric_that_is_not_finite_is_named_before_anything_is_written(place: str) -> None:
    """JSON has no NaN: a bare ValueError restarted the stage into the same again."""
    metrics = {"val/loss": float("nan"), "val/accuracy": 0.5, "of": [1.0, float("inf")]}
    with pytest.raises(BadInput, match=r"metrics\.val/loss is nan, metrics\.of\[1\] is inf"):
        commit(place, TENSORS, {"metrics": metrics})
    assert not Path(place).exists()
    with pytest.raises(BadInput, match=r"told\[0\]\.val/loss is nan"):
        publish(place, {"told": [{"val/loss": float("nan")}]}, {})


def test_a_full_disk_of_this_machine_is_named(place: str) -> None:
    with full_disk(1 << 20), pytest.raises(Unavailable, match="this machine's disk"):
        commit(place, {"w": torch.zeros(1 << 20)}, {})
    assert read_manifest(place) is None


def test_a_commit_removes_what_killed_writers_left(place: str) -> None:
    folder = Path(place)
    folder.mkdir()
    (folder / ".partial-deadbeef").write_bytes(b"half")
    commit(place, TENSORS, {})
    assert {path.name for path in folder.iterdir()} == {"manifest.json", path_of(place).name}
