import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cluster.local.s3 import S3Server
from storage.columns import StreamSpec, columns, open_stream
from storage.dataset import Dataset, load_dataset
from storage.decode import Crop
from storage.errors import BadDataset, BadSource, DatasetExists
from storage.index import load_index
from storage.objects import open_store
from storage.pack import pack, scan
from storage.pack.digits import Digits
from storage.pack.tar_names import expanded
from storage.pack.tars import index_tars
from storage.reader import read_samples
from storage.tar import members
from storage.verify import check_shards, verify
from tests.storage.support.images import encoded, gradient
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
        ([("x.jpg", JPEG), ("x.cls", b"cat")], "label 'cat' is not a class number"),
        ([("x.jpg", JPEG), ("x.cls", b"-1")], "label '-1' is not a class number"),
        ([("x.jpg", JPEG), ("x.cls", b"\xef\xbb\xbf1")], "is not a class number"),
        ([("x.jpg", JPEG), ("x.cls", b"")], "label '' is not a class number"),
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


def test_a_key_that_comes_again_is_joined_once(place: str) -> None:
    """webdataset gives two half samples of "a" here, Ray raises."""
    again = tar(("a.jpg", JPEG), ("b.jpg", PNG), ("b.cls", b"1"), ("a.cls", b"0"), ("b.cls", b"9"))
    dataset = index_tars(put(place, shard=again), TRAIN)
    assert samples(dataset) == [("a", JPEG, 0), ("b", PNG, 1)]
    assert dataset.left_out == (("shard.tar: b.cls", "a sample of this key came before"),)
    assert dict(dataset.notes) == {"samples whose members lie apart in their tar": 1}


def test_what_macos_adds_is_ignored_and_said(place: str) -> None:
    mac = b"\0\x05\x16\x07"
    data = tar(
        ("./._a.cls", mac), ("./a.cls", b"0"), ("./._a.jpg", mac), ("./a.jpg", JPEG),
        ("__MACOSX/b.jpg", mac),
    )  # fmt: skip
    dataset = index_tars(put(place, shard=data), TRAIN)
    assert [(data, label) for _, data, label in samples(dataset)] == [(JPEG, 0)]
    assert dataset.left_out == ()
    assert dict(dataset.notes) == {"members that macOS adds (._*) ignored": 3}
    assert load_dataset(place).notes == dataset.notes


def test_other_members_beside_the_image_are_ignored_and_said(place: str) -> None:
    data = tar(*((f"{i}.{s}", d) for i in "ab" for s, d in (
        ("cls", b"1"), ("jpg", JPEG), ("seg.png", PNG), ("txt", b"a cat"),
    )))  # fmt: skip
    dataset = index_tars(put(place, shard=data), TRAIN)
    assert samples(dataset) == [("a", JPEG, 1), ("b", JPEG, 1)]
    assert dict(dataset.notes) == {"members .seg.png beside the image ignored": 2}


@pytest.mark.parametrize("suffixes", [("input.jpg", "output.cls"), ("image.png", "cls")])
def test_the_only_image_and_label_may_have_dotted_names(place: str, suffixes: tuple) -> None:
    image = JPEG if "jpg" in suffixes[0] else PNG
    data = tar(("a." + suffixes[0], image), ("a." + suffixes[1], b"3"))
    dataset = index_tars(put(place, shard=data), TRAIN)
    assert samples(dataset) == [("a", image, 3)]
    assert dict(dataset.notes)[f"images read from .{suffixes[0]}"] == 1


def test_one_of_several_images_is_chosen_by_its_suffix(place: str) -> None:
    data = tar(("a.left.jpg", JPEG), ("a.right.png", PNG), ("a.cls", b"3"))
    with pytest.raises(BadSource, match="say --image-key"):
        index_tars(put(place, shard=data), TRAIN)
    assert samples(index_tars(place, TRAIN, image_key="right.png")) == [("a", PNG, 3)]


LABELS = [
    (("cls", b"3\r\n"), {}, None),
    (("cls", b" 3 "), {}, None),
    (("cls", b"3.0"), {}, None),
    (("label", b"3"), {}, "labels read from .label"),
    (("cls.txt", b"3\n"), {}, "labels read from .cls.txt"),
    (("json", b'{"label": "3"}'), {}, None),
    (("json", b'{"label": 3.0}'), {}, None),
    (("json", b'{"cls": 3}'), {}, "labels read from the field cls of .json"),
    (("json", b'{"id": 3, "label": 1}'), {"label_key": "id"}, "labels read from the field id"),
    (("txt", b"3"), {"label_key": "txt"}, "labels read from .txt"),
    (("cls", b"cow\n"), {"classes": ("cat", "dog", "fox", "cow")}, None),
    (("json", b'{"label": "n02"}'), {"classes": ("n01", "x", "y", "n02")}, None),
    (("cls", b"3"), {"classes": ("cat", "dog", "fox", "cow")}, None),
]  # fmt: skip


@pytest.mark.parametrize(("member", "options", "note"), LABELS)
def test_labels_are_read_as_people_write_them(
    place: str, member: tuple[str, bytes], options: dict, note: str | None
) -> None:
    data = tar(("a.jpg", JPEG), (f"a.{member[0]}", member[1]))
    dataset = index_tars(put(place, shard=data), TRAIN, **options)
    assert samples(dataset) == [("a", JPEG, 3)]
    assert dataset.classes == options.get("classes", ("0", "1", "2", "3"))
    notes = [what for what, _ in dataset.notes]
    assert (notes == []) if note is None else notes[0].startswith(note)


@pytest.mark.parametrize(
    ("members", "options", "reason"),
    [
        ([("a.cls", b"cat")], {}, "name the classes, one a line, by --classes FILE"),
        ([("a.cls", b"cow")], {"classes": ("cat",)}, "label 'cow' is none of the 1 of --classes"),
        (
            [("a.x.cls", b"1"), ("a.y.cls", b"1")],
            {},
            r"several labels \(.x.cls, .y.cls\): say --la",
        ),
        ([("a.json", b'{"id": 1}')], {}, "name the field with --label-key"),
        ([("a.json", b'{"id": 1}')], {"label_key": "x"}, "no number named x in its .json"),
        ([("a.json", b'{"label": null}')], {}, "label 'None' is not a class number"),
        ([("a.json", b"[" * 100_000)], {}, "no number named label"),
    ],
)
def test_labels_that_cannot_be_read_say_how(
    place: str, members: list, options: dict, reason: str
) -> None:
    with pytest.raises(BadSource, match=reason) as caught:
        index_tars(put(place, shard=tar(("a.jpg", JPEG), *members)), TRAIN, **options)
    assert len(str(caught.value)) < 250


def test_class_names_that_are_other_numbers_are_refused(place: str) -> None:
    with pytest.raises(BadSource, match="7 as number 1: a label 7 could mean either"):
        index_tars(put(place, one=GOOD), TRAIN, classes=("0", "7"))
    with pytest.raises(BadSource, match="names a class twice"):
        index_tars(place, TRAIN, classes=("a", "a", "b"))


def test_braces_are_expanded_as_webdataset_does(place: str) -> None:
    put(place, **{f"train-{i:02d}": GOOD for i in range(12)})
    assert index_tars(place, {"train": ["train-{00..09}.tar"]}).samples("train") == 20
    assert index_tars(place, {"train": ["train-0{1,2}.tar"]}, force=True).samples("train") == 4
    with pytest.raises(BadSource, match=r"2 of 14 tars are not under .*such as train-12\.tar"):
        index_tars(place, {"train": ["train-{00..13}.tar"]}, force=True)
    assert list(expanded("a{8..10}")) == ["a8", "a9", "a10"]
    with pytest.raises(BadSource, match="ascending range"):
        list(expanded("a{0..99999999}"))


def test_compressed_tars_are_named(place: str) -> None:
    open_store(place).write("train-0.tar.gz", b"\x1f\x8b")
    with pytest.raises(
        BadSource, match=r"1 compressed ones, such as train-0\.tar\.gz: unpack them"
    ):
        index_tars(place, TRAIN)


def test_the_index_may_lie_elsewhere(place: str, tmp_path: Path) -> None:
    """Tars on a share or in a bucket that one may only read."""
    put(place, one=GOOD)
    index = str(tmp_path / "index")
    dataset = index_tars(place, TRAIN, index=index)
    assert sorted(path.name for path in Path(place).iterdir()) == ["one.tar"]
    found = load_dataset(index)
    assert found.digest == dataset.digest == index_tars(place, TRAIN).digest
    assert found.shards_at == place
    rows = read_samples(found.shard_store(), load_index(found, "train"), np.arange(2))
    assert [raw.data for raw in rows] == [JPEG, PNG]
    check_shards(found)
    assert verify(found) == ()
    spec = StreamSpec(dataset=index, crop=Crop(image_size=8, kind="resize"), global_batch=2)
    batch = columns(open_stream(spec, found.digest), np.arange(2), np.zeros(2, int), replace=False)
    assert batch["label"].tolist() == [0, 2]
    (Path(place) / "one.tar").write_bytes(GOOD[:-512])
    with pytest.raises(BadDataset, match=r"shard one\.tar of .*index has"):
        check_shards(found)


def test_names_are_shown_fit_for_a_terminal(place: str) -> None:
    data = tar(("a\x1b[2J.jpg", JPEG), ("b.jpg", JPEG), ("b.cls", b"0"))
    ((what, _),) = index_tars(put(place, shard=data), TRAIN).left_out
    assert what.isprintable()


def test_a_tar_is_read_in_one_pass_over_its_bytes(place: str) -> None:
    """Each member used to copy the 8 MiB that were read ahead."""
    small = [(f"{i}.{s}", d) for i in range(500) for s, d in (("jpg", JPEG), ("cls", b"1"))]
    put(place, one=tar(*small, ("big.txt", bytes(3_000_000)), ("last.txt", b"x")))
    whole = (Path(place) / "one.tar").read_bytes()
    store = open_store(place)
    stream = scan.ObjectStream(store, "one.tar")
    before = store.traffic.requests, store.traffic.bytes
    found = list(members(io.BufferedReader(stream, 100_000).read))
    assert [member.name for member in found][-2:] == ["big.txt", "last.txt"]
    assert store.traffic.bytes - before[1] == len(whole)
    assert store.traffic.requests - before[0] <= len(whole) // 100_000 + 2
    assert stream.sha256() == hashlib.sha256(whole).hexdigest()


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
        ({"x": GOOD}, {"classes": ["only"]}, "labels up to 2, but only 1 class"),
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
    with pytest.raises(DatasetExists, match=r"not packed here|only indexed"):
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
