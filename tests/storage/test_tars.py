import tarfile
from pathlib import Path

import numpy as np
import pytest

from storage.dataset import Dataset, load_dataset
from storage.errors import BadSource, DatasetExists
from storage.index import load_index
from storage.objects import open_store
from storage.pack import pack
from storage.pack.digits import Digits
from storage.pack.tars import index_tars
from storage.reader import read_samples
from storage.verify import verify
from tests.s3 import S3Server
from tests.storage.images import encoded, gradient
from tests.storage.test_tar import tar

JPEG = encoded(gradient(8, 8), "JPEG")
PNG = encoded(gradient(9, 9), "PNG")
TRAIN = {"train": ["*.tar"]}


def put(place: str, **tars: bytes) -> str:
    for name, data in tars.items():
        open_store(place).write(f"{name}.tar", data)
    return place


def samples(dataset: Dataset, split: str = "train") -> list[tuple[str, bytes, int]]:
    index = load_index(dataset, split)
    found = read_samples(open_store(dataset.uri), index, np.arange(len(index)))
    return [(raw.key, raw.data, int(index.labels[raw.request])) for raw in found]


GOOD = tar(("a.jpg", JPEG), ("a.cls", b"0"), ("b.cls", b"2\n"), ("b.png", PNG))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_foreign_tars_are_read_where_they_lie(place: str, kind: int) -> None:
    deep = "d/" * 70 + "c"
    data = tar((f"{deep}.JPEG", JPEG), (f"{deep}.json", b'{"label": 1}'), kind=kind)
    put(place, one=GOOD, two=data)
    dataset = index_tars(place, TRAIN)
    assert (Path(place) / "one.tar").read_bytes() == GOOD
    assert [(data, label) for _, data, label in samples(dataset)] == [
        (JPEG, 0),
        (PNG, 2),
        (JPEG, 1),
    ]
    assert dataset.classes == ("0", "1", "2")
    assert load_dataset(place).digest == dataset.digest
    assert dataset.left_out == ()


def test_splits_are_chosen_by_pattern(place: str) -> None:
    put(place, **{"train-0": GOOD, "train-1": GOOD, "val-0": GOOD})
    dataset = index_tars(
        place, {"train": ["train-*.tar"], "val": ["val-*.tar"]}, classes=["x", "y", "z"]
    )
    assert {name: dataset.samples(name) for name in dataset.splits} == {"train": 4, "val": 2}
    assert dataset.classes == ("x", "y", "z")


def test_our_own_tars_index_to_the_same_rows(digits: Dataset, s3: S3Server, tmp_path: Path) -> None:
    uri = s3.uri("foreign", tmp_path.name)
    for shard in digits.shards("train"):
        open_store(uri).upload(shard.name, f"{digits.uri}/{shard.name}")
    dataset = index_tars(uri, {"train": ["train-*.tar"]})
    assert np.array_equal(load_index(dataset, "train").rows, load_index(digits, "train").rows)
    assert dataset.shards("train") == digits.shards("train")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([("x.jpg", JPEG)], "no label (.cls)"),
        ([("x.jpg", JPEG), ("x.cls", b"cat")], "label b'cat' is not a class number"),
        ([("x.jpg", JPEG), ("x.cls", b"-1")], "label b'-1' is not a class number"),
        ([("x.jpg", JPEG), ("x.cls", b"\xef\xbb\xbf1")], "is not a class number"),
        ([("x.jpg", JPEG), ("x.cls", b"")], "label b'' is not a class number"),
        ([("x.jpg", JPEG), ("x.json", b'{"label": "cat"}')], "label 'cat' is not a class number"),
        ([("x.jpg", JPEG), ("x.json", b"{")], "no number named label"),
        ([("x.cls", b"1")], "no image"),
        ([("x.jpg", b"not an image"), ("x.cls", b"1")], "not a JPEG, PNG, WEBP image"),
        ([("x.jpg", JPEG), ("x.png", PNG), ("x.cls", b"1")], "2 images under one key"),
        (
            [("x.v1.jpg", JPEG), ("x.v2.jpg", JPEG), ("x.cls", b"1")],
            "dotted names (v1.jpg, v2.jpg)",
        ),
    ],
)
def test_unusable_samples_are_left_out_by_name(place: str, entries: list, reason: str) -> None:
    put(place, shard=tar(*entries, ("fine.jpg", JPEG), ("fine.cls", b"0")))
    dataset = index_tars(place, TRAIN)
    assert [key for key, _, _ in samples(dataset)] == ["fine"]
    ((what, why),) = dataset.left_out
    assert what == "shard.tar: x"
    assert reason in why


def test_a_key_that_comes_again_is_left_out(place: str) -> None:
    """webdataset gives two half samples here, Ray raises."""
    again = tar(("a.jpg", JPEG), ("b.jpg", PNG), ("b.cls", b"1"), ("a.cls", b"0"), ("b.cls", b"9"))
    dataset = index_tars(put(place, shard=again), TRAIN)
    assert samples(dataset) == [("b", PNG, 1)]
    assert sorted(dataset.left_out) == [
        ("shard.tar: a", "no label (.cls)"),
        ("shard.tar: a.cls", "a sample of this key came before"),
        ("shard.tar: b.cls", "a sample of this key came before"),
    ]


def test_links_are_left_out_by_name(place: str) -> None:
    link = tarfile.TarInfo("x.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    dataset = index_tars(put(place, shard=tar(link, ("fine.jpg", JPEG), ("fine.cls", b"0"))), TRAIN)
    assert dataset.left_out == (("shard.tar: x.jpg", "a symbolic link"),)


def test_equal_keys_in_different_tars_are_different_samples(place: str) -> None:
    assert index_tars(put(place, one=GOOD, two=GOOD), TRAIN).samples("train") == 4


def test_all_torn_tars_are_named_at_once(place: str) -> None:
    put(place, one=GOOD, two=GOOD[:512], three=GOOD[:600], four=b"")
    with pytest.raises(BadSource, match="3 of 4 tars") as caught:
        index_tars(place, TRAIN)
    message = str(caught.value)
    assert "two.tar: torn at byte" in message
    assert "three.tar: torn at byte 600" in message
    assert "four.tar: empty" in message
    assert not (Path(place) / "dataset.json").exists()


@pytest.mark.parametrize(
    ("tars", "arguments", "message"),
    [
        ({}, {}, r"no tar under .* matches \*\.tar; there are 0"),
        ({"x": GOOD}, {"classes": ["only"]}, "labels up to 2, 1 classes were named"),
        ({"x": tar(("README", b"hello"))}, {}, "no usable sample: they are empty"),
    ],
)
def test_odd_input_is_explained(place: str, tars: dict, arguments: dict, message: str) -> None:
    with pytest.raises(BadSource, match=message):
        index_tars(put(place, **tars), TRAIN, **arguments)


def test_indexing_again_changes_nothing(place: str) -> None:
    put(place, one=GOOD)
    first = index_tars(place, TRAIN)
    assert index_tars(place, TRAIN).digest == first.digest
    put(place, two=GOOD)
    with pytest.raises(DatasetExists, match="--force"):
        index_tars(place, TRAIN)
    assert index_tars(place, TRAIN, force=True).samples("train") == 4


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_packing_never_overwrites_tars_of_somebody_else(
    place: str, indexed: bool, force: bool
) -> None:
    put(place, **{"train-000000": GOOD})
    if indexed:
        index_tars(place, TRAIN)
    with pytest.raises(DatasetExists, match=r"not packed here|indexed where they lay"):
        pack(Digits(), place, force=force)
    assert (Path(place) / "train-000000.tar").read_bytes() == GOOD


# verify


def test_verify_finds_nothing_in_a_sound_dataset(digits: Dataset) -> None:
    seen: list[str] = []
    assert verify(digits, progress=seen.append) == ()
    assert len(seen) == len(digits.shards("train")) + len(digits.shards("val"))


def test_verify_names_every_damaged_sample(place: str) -> None:
    dataset = pack(Digits(), place, shard_bytes=400 << 10)
    index = load_index(dataset, "train")
    path = Path(place) / "train-000001.tar"
    data = bytearray(path.read_bytes())
    chosen = np.flatnonzero(index.rows["shard"] == 1)[[3, 50]]
    for position in chosen:
        data[int(index.rows["offset"][position]) + 20] ^= 1
    path.write_bytes(data)
    (Path(place) / "val-000000.tar").unlink()
    problems = [str(problem) for problem in verify(dataset)]
    assert len(problems) == 3
    assert sum("train-000001.tar" in problem and "checksum" in problem for problem in problems) == 2
    assert any("val-000000.tar" in problem for problem in problems)


def test_verify_notices_damage_between_samples(place: str) -> None:
    dataset = pack(Digits(), place)
    path = Path(place) / "train-000000.tar"
    data = bytearray(path.read_bytes())
    data[300] ^= 1  # in the header of the first .cls
    path.write_bytes(data)
    (problem,) = verify(dataset)
    assert "train-000000.tar" in str(problem)
