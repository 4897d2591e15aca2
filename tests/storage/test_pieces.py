"""Tensors cut into pieces by any number of writers come back whole, or not at all."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.local.s3 import S3Server
from storage.errors import CorruptWeights, WeightsExist, WeightsNotFound
from storage.objects import open_store
from storage.pieces import Piece, commit_parts, open_pieces, write_part

TENSORS = {
    "weights/a": torch.arange(12.0).view(3, 4),
    "weights/b": torch.arange(5.0) - 7,
    "exp_avg/scalar": torch.tensor(0.25),
}


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server):
    if request.param == "directory":
        yield str(tmp_path / "state")
        return
    with s3_server.environment():
        yield s3_server.uri("pieces", tmp_path.name)


def cut(writers: int, cuts: dict[str, list[int]] | None = None) -> list[list[Piece]]:
    """Equal shares of every tensor, the last ones short or empty; or those of `cuts`."""
    shares: list[list[Piece]] = [[] for _ in range(writers)]
    for name, value in TENSORS.items():
        flat = value.reshape(-1)
        share = -(-len(flat) // writers)
        edges = (cuts or {}).get(name, [share * writer for writer in range(1, writers)])
        edges = [0, *(min(edge, len(flat)) for edge in edges), len(flat)]
        for writer in range(writers):
            start, end = edges[writer], edges[writer + 1]
            if start < end:
                shares[writer].append((name, value.shape, start, flat[start:end]))
    return shares


def write(place: str, writers: int, token: str = "t") -> None:
    for writer, pieces in enumerate(cut(writers)):
        write_part(place, token, writer, writers, pieces)


def test_nothing_is_committed_before_the_last_part_is_there(place: str) -> None:
    first, second = cut(2)
    write_part(place, "t", 0, 2, first)
    assert not commit_parts(place, "t", 2, {"step": 1})
    write_part(place, "other", 1, 2, second)  # of a group that died
    assert not commit_parts(place, "t", 2, {"step": 1})
    with pytest.raises(WeightsNotFound, match="nothing is committed"), open_pieces(place):
        pass
    write_part(place, "t", 1, 2, second)
    assert commit_parts(place, "t", 2, {"step": 1})
    with open_pieces(place) as found:
        assert found.keys() == TENSORS.keys()
        for name, value in TENSORS.items():
            assert torch.equal(found[name], value)


def test_the_second_group_to_commit_is_told(place: str) -> None:
    write(place, 2)
    write(place, 1, token="zombie")
    assert commit_parts(place, "t", 2, {})
    with pytest.raises(WeightsExist):
        commit_parts(place, "zombie", 1, {})


@settings(max_examples=30, deadline=None)
@given(data=st.data(), writers=st.integers(1, 7))
def test_any_cut_comes_back(data: st.DataObject, writers: int, tmp_path_factory) -> None:
    cuts = {
        name: sorted(
            data.draw(
                st.lists(st.integers(0, value.numel()), min_size=writers - 1, max_size=writers - 1)
            )
        )
        for name, value in TENSORS.items()
    }
    place = str(tmp_path_factory.mktemp("cut"))
    for writer, pieces in enumerate(cut(writers, cuts)):
        write_part(place, "t", writer, writers, pieces)
    assert commit_parts(place, "t", writers, {})
    with open_pieces(place) as found:
        for name, value in TENSORS.items():
            assert torch.equal(found[name], value)
            start = data.draw(st.integers(0, value.numel()))
            count = data.draw(st.integers(0, value.numel() - start))
            flat = value.reshape(-1)[start : start + count]
            assert torch.equal(found.part(name, start, count), flat)


def test_a_missing_piece_is_named(tmp_path: Path) -> None:
    _, second = cut(2)
    write_part(str(tmp_path), "t", 0, 2, [])
    write_part(str(tmp_path), "t", 1, 2, second)
    assert commit_parts(str(tmp_path), "t", 2, {})
    with (
        pytest.raises(CorruptWeights, match="weights/a has 6 of 12 elements"),
        open_pieces(str(tmp_path)),
    ):
        pass


def test_what_is_not_asked_for_is_not_read(place: str) -> None:
    write(place, 3)
    assert commit_parts(place, "t", 3, {})
    open_store(place).delete("t-00002-of-00003.safetensors")
    with open_pieces(place, reader=0, readers=3) as found:
        assert found.shape("weights/a") == (3, 4)
        assert found.part("weights/a", 2, 5).tolist() == [2, 3, 4, 5, 6]  # of two files
        with pytest.raises(CorruptWeights, match=r"00002-of-00003\.safetensors is missing"):
            found["weights/a"]
    with (
        pytest.raises(CorruptWeights, match=r"00002-of-00003\.safetensors is missing"),
        open_pieces(place, reader=2, readers=3),
    ):
        pass


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_part_is_named(place: str, damage: str) -> None:
    write(place, 2)
    assert commit_parts(place, "t", 2, {})
    store, name = open_store(place), "t-00001-of-00002.safetensors"
    data = bytearray(store.read(name))
    if damage == "gone":
        store.delete(name)
    else:
        data[-1] ^= 1
        store.write(name, bytes(data[:-4] if damage == "cut" else data))
    with pytest.raises(CorruptWeights, match=name), open_pieces(place):
        pass


def test_the_manifest_names_every_file_with_its_checksum(tmp_path: Path) -> None:
    write(str(tmp_path), 3)
    assert commit_parts(str(tmp_path), "t", 3, {"step": 7})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["step"] == 7
    for name, promised in manifest["files"].items():
        assert (tmp_path / name).stat().st_size == promised["bytes"]
    assert len(manifest["files"]) == 3
