"""Which images a command line names."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cluster.local.s3 import S3Server
from pipelines.prediction.listing import DatasetSplit, Tar, find, pieces_of, scan_tar
from pipelines.prediction.pieces import FileRef, Files, Samples
from pipelines.recipes.errors import Mistake
from storage.errors import BadDataset, BadSource
from storage.objects import open_store
from tests.pipelines.support.photographs import CHINA, FLOWER, Photos


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def files(sources: list[str]) -> list[str]:
    return [one.file for one in find(sources, split="val") if not isinstance(one, DatasetSplit)]


def test_a_folder_is_its_images_and_tars_by_name_without_what_systems_leave(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.tiff", "shard.tar", "notes.txt", "._c.jpg", ".x/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    top = str(tmp_path)
    assert files([top]) == [
        f"{top}/{name}" for name in ("a.tiff", "b/1.png", "b/2.JPG", "shard.tar")
    ]
    assert files([f"{top}/b/", f"{top}/a.tiff"])[-1] == f"{top}/a.tiff"
    assert files([f"{top}/notes.txt"]) == [f"{top}/notes.txt"]  # named, so it is meant


def test_a_name_that_is_no_utf8_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(CHINA)
    (only,) = find([str(tmp_path)], split="val")
    assert isinstance(only, FileRef)
    assert only.file == f"{tmp_path}/caf\\xe9.jpg"
    (piece,) = pieces_of([only], rows=4)
    assert [one.data for one in piece.read()] == [CHINA]


@pytest.mark.parametrize("missing", ["nowhere.jpg", "nowhere/", "empty"])
def test_a_source_without_images_is_a_mistake_that_names_it(missing: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    with pytest.raises(Mistake, match=missing.rstrip("/")):
        find([str(tmp_path / missing)], split="val")


def test_no_source_is_a_mistake() -> None:
    with pytest.raises(Mistake, match="no images given"):
        find([], split="val")


def test_a_tar_holds_its_images_whatever_else_is_in_it(tmp_path: Path) -> None:
    long = "./" + "n" * 120 + "/2.jpg"
    path = tar(
        tmp_path / "some.tar",
        {"./1.jpg": CHINA, "./1.cls": b"0", long: FLOWER, "__MACOSX/1.jpg": b"", "../up.jpg": b""},
    )
    index, names = scan_tar(Tar(str(tmp_path), path.name, "some.tar"))
    assert names == ("some.tar/./1.jpg", f"some.tar/{long}")
    (piece,) = (Samples(str(tmp_path), index.rows, index.shards, names),)
    assert [one.data for one in piece.read()] == [CHINA, FLOWER]


@pytest.mark.parametrize(
    ("members", "cut", "found"),
    [({"1.cls": b"0"}, 0, "no image"), ({"1.jpg": CHINA}, 20000, "torn"), ({}, 10240, "empty")],
)
def test_a_tar_that_is_torn_or_has_no_image_is_named(
    members: dict[str, bytes], cut: int, found: str, tmp_path: Path
) -> None:
    path = tar(tmp_path / "some.tar", members)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    with pytest.raises(BadSource, match=rf"some\.tar: .*{found}"):
        scan_tar(Tar(str(tmp_path), path.name, "some.tar"))


def test_a_packed_dataset_is_its_validation_split_in_order(photos: Photos) -> None:
    uri = f"{photos.data_root}/photos"
    found = find([uri], split="val")
    assert found == [DatasetSplit(uri, "val")]
    pieces = pieces_of(found, rows=2)
    assert [len(piece) for piece in pieces] == [2, 2, 1]
    whole = [one.data for piece in pieces_of(found, rows=9) for one in piece.read()]
    assert [one.data for piece in pieces for one in piece.read()] == whole
    assert sorted(whole) == sorted(path.read_bytes() for path in photos.folder.glob("val/*/*.jpg"))
    with pytest.raises(BadDataset, match="it has train, val"):
        pieces_of(find([uri], split="test"), rows=2)


def test_a_piece_knows_only_the_tars_it_lies_in(s3_server: S3Server, s3_data: str) -> None:
    with s3_server.environment():
        pieces = pieces_of(find([f"{s3_data}/digits"], split="train"), rows=100)
        assert len(pieces) > 10
        for piece in pieces:
            assert isinstance(piece, Samples)
            assert len(piece.shards) == len(np.unique(piece.rows["shard"])) <= 2
        assert [one.error for one in pieces[-1].read()] == [""] * len(pieces[-1])


def test_a_bucket_is_listed_below_a_prefix_or_names_one_object(s3_server: S3Server) -> None:
    root = s3_server.uri("pictures")
    with s3_server.environment():
        store = open_store(root)
        for key, data in (("a/1.jpg", CHINA), ("a/2.jpg", FLOWER), ("ab.jpg", CHINA)):
            store.write(key, data)
        assert files([f"{root}/a"]) == [f"{root}/a/1.jpg", f"{root}/a/2.jpg"]
        one = find([f"{root}/ab.jpg"], split="val")
        (piece,) = pieces_of(one, rows=4)
        assert isinstance(piece, Files)
        assert [one.data for one in piece.read()] == [CHINA]
        with pytest.raises(Mistake, match="nowhere"):
            find([f"{root}/nowhere"], split="val")
