"""Damaged files of every kind that is read back: our typed errors, whatever the bytes are.

Each example takes a good file and flips, cuts, repeats or replaces something in it, then makes the
checksum that is promised for it agree: what is tried is the reader, not the checksum.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, seed
from hypothesis import strategies as st

from storage.checksum import sha256_file
from storage.dataset import Dataset, IndexFile, Shard, from_json, load_dataset, to_json
from storage.errors import CorruptWeights, StorageError
from storage.index import INDEX_ROW, load_index, save_index
from storage.objects import open_store
from storage.pieces import commit_parts, open_pieces, write_part
from storage.reader import read_samples
from storage.weights import commit, file_name, read_manifest, read_weights
from tests.storage.support.damage import damaged_bytes, damaged_json, fuzz, tried


@pytest.fixture(scope="module")
def manifest_text() -> bytes:
    shard = Shard(name="train-000000.tar", bytes=4096, samples=3, sha256="ab" * 32)
    index = IndexFile(name="index-train.npy", bytes=224, sha256="cd" * 32)
    return to_json(
        Dataset(
            uri="/data",
            classes=("cat", "dog"),
            splits={"train": (shard,)},
            indexes={"train": index},
            left_out=(("a.gif", "an animation"),),
        )
    )


@seed(20_260_101)
@fuzz
@given(st.data())
def test_a_damaged_dataset_json(manifest_text: bytes, data: st.DataObject) -> None:
    made = data.draw(damaged_bytes(manifest_text) | damaged_json(manifest_text))
    tried(lambda: from_json("/data", made))


@seed(20_260_102)
@fuzz
@given(st.data())
def test_a_dataset_json_that_promises_anything(
    manifest_text: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    """Whatever its values are, their digest agrees: a packer that is not ours wrote it."""
    content = json.loads(data.draw(damaged_json(manifest_text)))
    try:
        from_json("/data", json.dumps(content).encode())
    except StorageError as error:
        found = str(error).rpartition("its content has ")[2].partition(".")[0]
        content["digest"] = found if isinstance(content, dict) else None
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    tried(lambda: load_index(load_dataset(str(tmp_path)), "train"))


@seed(20_260_103)
@fuzz
@given(st.data())
def test_a_damaged_index(tmp_path: Path, data: st.DataObject) -> None:
    rows = np.zeros(3, dtype=INDEX_ROW)
    rows["offset"], rows["size"] = 512, 100
    good = save_index(tmp_path, "train", rows).read_bytes()
    path = tmp_path / "index-train.npy"
    path.unlink()  # a mapped file is never changed in place
    path.write_bytes(data.draw(damaged_bytes(good)))
    (tmp_path / "train-000000.tar").write_bytes(bytes(4096))
    dataset = Dataset(
        uri=str(tmp_path),
        classes=("cat", "dog"),
        splits={"train": (Shard(name="train-000000.tar", bytes=4096, samples=3, sha256=""),)},
        indexes={"train": IndexFile.of(path)},
    )

    def read() -> None:
        index = load_index(dataset, "train")
        damaged: list[Any] = []
        list(read_samples(open_store(str(tmp_path)), index, np.arange(3), damaged=damaged))

    tried(read)


@seed(20_260_104)
@fuzz
@given(st.data())
def test_a_damaged_manifest_of_weights(tmp_path: Path, data: st.DataObject) -> None:
    place = str(tmp_path / "weights")
    if read_manifest_of(place) is None:
        commit(place, {"w": torch.ones(3)}, {"step": 3})
        (tmp_path / "good").write_bytes(open_store(place).read("manifest.json"))
    good = (tmp_path / "good").read_bytes()
    made = data.draw(damaged_bytes(good) | damaged_json(good))
    open_store(place).write("manifest.json", made)
    tried(lambda: read_weights(place))


def read_manifest_of(place: str) -> object:
    """Anything but None where there is a manifest."""
    try:
        return read_manifest(place)
    except StorageError as error:
        return error


@seed(20_260_105)
@fuzz
@given(st.data())
def test_a_damaged_safetensors_file(tmp_path: Path, data: st.DataObject) -> None:
    """Its header is JSON from outside: types, shapes and offsets may say anything."""
    place = tmp_path / "weights"
    if not place.exists():
        commit(str(place), {"w": torch.ones(3, 4), "b": torch.ones(4)}, {})
        manifest = read_manifest(str(place))
        assert manifest is not None
        (tmp_path / "good").write_bytes((place / file_name(manifest)).read_bytes())
        (tmp_path / "manifest").write_text(json.dumps(manifest))
    good = (tmp_path / "good").read_bytes()
    length = int.from_bytes(good[:8], "little")
    if data.draw(st.booleans()):
        made = data.draw(damaged_bytes(good))
    else:
        header = data.draw(damaged_json(good[8 : 8 + length]))
        made = len(header).to_bytes(8, "little") + header + good[8 + length :]
    manifest = json.loads((tmp_path / "manifest").read_text())
    (place / file_name(manifest)).write_bytes(made)
    entry = manifest["files"]["weights.safetensors"]
    entry |= {"bytes": len(made), "sha256": sha256_file(place / file_name(manifest))}
    (place / "manifest.json").write_text(json.dumps(manifest))
    tried(lambda: read_weights(str(place)))


@seed(20_260_106)
@fuzz
@given(st.data())
def test_damaged_pieces(tmp_path: Path, data: st.DataObject) -> None:
    """The manifest of a resume state, or one of its files."""
    place = str(tmp_path / "state")
    store = open_store(place)
    if not (tmp_path / "good").exists():
        pieces = [("weights/w", (2, 3), 0, torch.ones(6)), ("exp_avg/w", (3,), 0, torch.ones(3))]
        write_part(place, "t", 0, 1, pieces)
        assert commit_parts(place, "t", 1, {})
        (tmp_path / "good").mkdir()
        for key in store.list():
            (tmp_path / "good" / key).write_bytes(store.read(key))
    file = "t-00000-of-00001.safetensors"
    good = {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()}
    text = good["manifest.json"]
    if data.draw(st.booleans()):
        store.write(file, good[file])
        store.write("manifest.json", data.draw(damaged_bytes(text) | damaged_json(text)))
    else:
        made = data.draw(damaged_bytes(good[file]))
        store.write(file, made)
        manifest = json.loads(text)
        manifest["files"][file] |= {"bytes": len(made), "sha256": sha256_file(f"{place}/{file}")}
        store.write("manifest.json", json.dumps(manifest).encode())

    tried(lambda: read_all(place))


def test_a_piece_of_more_elements_than_its_file_holds_is_refused(tmp_path: Path) -> None:
    """Memory for them is not asked for first."""
    write_part(str(tmp_path), "t", 0, 1, [("w", (3,), 0, torch.ones(3))])
    commit_parts(str(tmp_path), "t", 1, {})
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace("3,\n     3\n", f"{2**40},\n     {2**40}\n"))
    with pytest.raises(CorruptWeights, match="cannot have 1099511627776 elements"):
        read_all(str(tmp_path))


def read_all(uri: str) -> None:
    with open_pieces(uri) as found:
        dict(found)
