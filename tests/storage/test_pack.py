import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from cluster.local.s3 import S3Server
from storage.dataset import Dataset, load_dataset
from storage.errors import BadDataset, BadSource, DatasetExists, DatasetNotFound
from storage.index import load_index
from storage.objects import open_store
from storage.pack import pack
from storage.pack.digits import Digits
from storage.pack.folder import Folder
from storage.pack.idx import Idx
from storage.pack.plan import Slice
from storage.pack.png import png
from storage.pack.shard import PackShard
from storage.pack.source import LeftOut, Sample, Source
from storage.reader import read_samples
from storage.verify import check_shards
from tests.storage.support.images import encoded, gradient


class Numbers(Source):
    """A source of `count` samples whose bytes are their numbers."""

    def __init__(self, count: int = 50, bad: tuple[int, ...] = (), key: str = "n{}") -> None:
        self.count, self.bad, self.key = count, bad, key

    @property
    def classes(self) -> tuple[str, ...]:
        return ("even", "odd")

    @property
    def splits(self) -> Mapping[str, int]:
        return {"train": self.count}

    def identity(self) -> str:
        return f"{self.count} {self.bad} {self.key}"

    def read(self, split: str, i: int) -> Sample:
        if i in self.bad:
            raise LeftOut(f"file {i}", "too odd")
        data = f"{i}".encode() * 100
        return Sample(key=self.key.format(i), suffix="png", data=data, label=i % 2)


def files(place: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())}


def test_same_input_same_bytes(tmp_path: Path) -> None:
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    first, second = pack(Digits(), one), pack(Digits(), other)
    assert files(one) == files(other)
    assert first.digest == second.digest


def test_the_digest_of_the_digits_never_changes(digits: Dataset) -> None:
    """Pinned: it is in the fingerprint of every stage trained on them."""
    train = load_index(digits, "train")
    assert (len(train), digits.samples("val"), len(digits.classes)) == (1420, 377, 10)
    assert np.bincount(train.labels).min() > 130
    assert digits.digest == "6d6bb687a3016029aac8d9046034a8c8e6c0160bc21973b780bbe338f2856844"


def test_shards_are_plain_webdataset(digits: Dataset) -> None:
    shards = digits.shards("train")
    assert len(shards) > 3
    urls = [f"{digits.uri}/{shard.name}" for shard in shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))  # pyright: ignore[reportAttributeAccessIssue]  lazily exported
    assert len(samples) == digits.samples("train") == 1420
    index = load_index(digits, "train")
    assert [int(sample["cls"]) for sample in samples] == index.labels.tolist()
    assert all(sample["png"].startswith(b"\x89PNG") for sample in samples)


def test_tars_carry_no_time_user_or_host(digits: Dataset) -> None:
    with tarfile.open(f"{digits.uri}/train-000000.tar") as tar:
        facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
    assert facts == {(0, 0, 0, "", "", 0o444)}


def test_samples_are_written_shuffled(place: str) -> None:
    dataset = pack(Numbers(200), place)
    index = load_index(dataset, "train")
    names = [raw.key for raw in read_samples(open_store(place), index, np.arange(200))]
    assert sorted(names) == sorted(f"n{i}" for i in range(200))
    numbers = np.array([int(name[1:]) for name in names])
    assert abs(np.corrcoef(numbers, np.arange(200))[0, 1]) < 0.2


def test_shards_keep_to_their_size(place: str) -> None:
    dataset = pack(Numbers(50), place, shard_bytes=20_480)
    shards = dataset.shards("train")
    assert len(shards) > 2
    assert all(shard.bytes <= 20_480 for shard in shards)
    check_shards(dataset)


def test_a_sample_larger_than_a_shard_gets_one_of_its_own(place: str) -> None:
    assert [shard.samples for shard in pack(Numbers(3), place, shard_bytes=1).shards("train")] == [
        1
    ] * 3


def test_packing_again_changes_nothing(place: str) -> None:
    first = pack(Digits(), place)
    before = {path: path.stat().st_mtime_ns for path in Path(place).iterdir()}
    assert pack(Digits(), place).digest == first.digest
    assert {path: path.stat().st_mtime_ns for path in Path(place).iterdir()} == before


def test_another_dataset_is_not_overwritten_without_force(place: str) -> None:
    pack(Numbers(50), place, shard_bytes=20_480)
    before = files(place)
    with pytest.raises(DatasetExists, match=r"already holds another dataset \(train 50; .*--force"):
        pack(Numbers(51), place)
    assert files(place) == before
    pack(Numbers(51), place, force=True)
    assert load_dataset(place).samples("train") == 51
    assert sorted(files(place)) == ["dataset.json", "index-train.npy", "train-000000.tar"]


def test_a_killed_packer_leaves_no_dataset(place: str) -> None:
    class Killed(Numbers):
        def read(self, split: str, i: int) -> Sample:
            if i == 30:
                raise KeyboardInterrupt
            return super().read(split, i)

    with pytest.raises(KeyboardInterrupt):
        pack(Killed(50), place, shard_bytes=10_240)
    with pytest.raises(DatasetNotFound, match="packing did not finish"):
        load_dataset(place)
    assert pack(Numbers(50), place, shard_bytes=10_240).samples("train") == 50


def test_what_is_left_out_is_counted_and_named(place: str) -> None:
    pack(Numbers(50, bad=(3, 7)), place)
    dataset = load_dataset(place)
    assert dataset.samples("train") == 48
    assert sorted(dataset.left_out) == [("file 3", "too odd"), ("file 7", "too odd")]


def test_a_source_that_gives_a_key_twice_is_refused(place: str) -> None:
    with pytest.raises(BadSource, match="two samples of one shard are called 'same'"):
        pack(Numbers(20, key="same"), place)


def test_long_keys_fit_a_tar_header(place: str) -> None:
    dataset = pack(Numbers(3, key="x" * 300 + "{}"), place)
    assert dataset.samples("train") == 3


def test_nothing_packable_is_an_error_with_the_first_reason(place: str) -> None:
    with pytest.raises(BadSource, match=r"no sample of split 'train' could be packed.*too odd"):
        pack(Numbers(2, bad=(0, 1)), place)


def test_packing_to_s3_gives_the_same_digest(s3: S3Server, digits: Dataset, tmp_path: Path) -> None:
    uri = s3.uri("packed", tmp_path.name)
    there = pack(Digits(), uri, shard_bytes=400 << 10)
    assert there.digest == digits.digest
    loaded = load_dataset(uri)
    assert loaded.digest == digits.digest
    check_shards(loaded)
    index = load_index(loaded, "train")
    here = load_index(digits, "train")
    assert np.array_equal(index.rows, here.rows)
    some = np.array([5, 3, 700, 3])
    from_s3 = {raw.request: raw.data for raw in read_samples(open_store(uri), index, some)}
    local = {raw.request: raw.data for raw in read_samples(open_store(digits.uri), here, some)}
    assert from_s3 == local


def test_an_index_cache_of_another_user_is_not_trusted(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = pack(Numbers(5), s3.uri("cache", tmp_path.name))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"vit-on-ray-index-{os.getuid()}").symlink_to(tmp_path / "theirs")
    with pytest.raises(BadDataset, match="belongs to another user"):
        load_index(dataset, "train")


# folders


def tree(root: Path, names: dict[str, bytes]) -> Path:
    for name, data in names.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def picture(i: int) -> bytes:
    return encoded(gradient(8 + i, 8), "JPEG")


def test_folder_stores_original_bytes_and_splits_by_name(tmp_path: Path, place: str) -> None:
    names = {f"{c}/{c}.{i}.JPEG": picture(i) for c in ("cat", "dog") for i in range(40)}
    dataset = pack(Folder(tree(tmp_path / "in", names), validation_fraction=0.25), place)
    assert dataset.classes == ("cat", "dog")
    assert 8 <= dataset.samples("val") <= 32
    assert dataset.samples("train") + dataset.samples("val") == 80
    for split in ("train", "val"):
        index = load_index(dataset, split)
        for raw in read_samples(open_store(place), index, np.arange(len(index))):
            name = raw.key.replace("_", ".") + ".JPEG"
            assert raw.data == names[name]
            label = index.labels[raw.request]
            assert name.startswith(dataset.classes[label] + "/")


def test_folder_keeps_a_sample_on_its_side_when_others_come(tmp_path: Path) -> None:
    few = {f"a/{i}.jpg": picture(1) for i in range(40)}
    before = Folder(tree(tmp_path / "in", few), validation_fraction=0.5)
    held = {before.read("val", i).key for i in range(before.splits["val"])}
    after = Folder(
        tree(tmp_path / "in", {f"a/{i}.jpg": picture(1) for i in range(80)}),
        validation_fraction=0.5,
    )
    assert held <= {after.read("val", i).key for i in range(after.splits["val"])}


def test_folder_keeps_the_split_it_has(tmp_path: Path, place: str) -> None:
    names = {
        f"{half}/{c}/1.png": encoded(gradient(8, 8), "PNG")
        for half in ("train", "val")
        for c in "ab"
    }
    dataset = pack(Folder(tree(tmp_path / "in", names)), place)
    assert {name: dataset.samples(name) for name in dataset.splits} == {"train": 2, "val": 2}


def keys(dataset: Dataset, split: str) -> dict[str, bytes]:
    index = load_index(dataset, split)
    found = list(read_samples(open_store(dataset.uri), index, np.arange(len(index))))
    assert len({raw.key for raw in found}) == len(index)
    return {raw.key: raw.data for raw in found}


def test_equal_keys_become_different_ones(tmp_path: Path, place: str) -> None:
    """Whatever shard they fall into."""
    png = encoded(gradient(8, 8), "PNG")
    names = {f"{half}/a/x.png": png for half in ("train", "val")}
    names |= {"train/a/x.jpg": picture(1), "train/a/p.q.jpg": picture(2), "train/a/p q.png": png}
    dataset = pack(Folder(tree(tmp_path / "in", names)), place, shard_bytes=1)
    assert list(keys(dataset, "val")) == ["val/a/x"]
    train = keys(dataset, "train")
    assert sorted(key.partition("-")[0] for key in train) == ["train/a/p_q"] * 2 + ["train/a/x"] * 2


def test_names_beyond_ascii_are_read_back(tmp_path: Path, place: str) -> None:
    names = {f"{half}/é/{i}ü.jpg": picture(i) for half in ("train", "val") for i in range(3)}
    names["train/é/\udcff.jpg"] = picture(1)
    dataset = pack(Folder(tree(tmp_path / "in", names)), place)
    assert sorted(keys(dataset, "train").values()) == sorted(picture(i) for i in range(3))
    assert dataset.left_out == ((r"'train/\xe9/\udcff.jpg'", "its name is not UTF-8"),)
    load_dataset(place)


def test_a_file_that_vanishes_while_packing_is_an_error(tmp_path: Path, place: str) -> None:
    names = {f"{half}/a/{i}.jpg": picture(i) for half in ("train", "val") for i in range(3)}
    source = Folder(tree(tmp_path / "in", names))
    (tmp_path / "in" / "val/a/1.jpg").unlink()
    with pytest.raises(BadSource, match=r"val/a/1\.jpg was listed, but is not there on node"):
        pack(source, place)


def test_a_node_that_does_not_see_the_source_is_named(tmp_path: Path, place: str) -> None:
    names = {f"{half}/a/{i}.jpg": picture(i) for half in ("train", "val") for i in range(3)}
    source = pickle.loads(pickle.dumps(Folder(tree(tmp_path / "in", names))))
    task = PackShard(source=source, uri=place, identity="", write=True)
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    with pytest.raises(BadSource, match=r"in is not there on node .*: packing reads the source"):
        task(Slice(split="train", number=0, start=0, stop=3))


def test_a_folder_is_another_when_a_file_changes(tmp_path: Path) -> None:
    """Else a killed packer's shards of the old one would be kept."""
    names = {f"{half}/a/{i}.jpg": picture(i) for half in ("train", "val") for i in range(3)}
    root = tree(tmp_path / "in", names)
    before = Folder(root).identity()
    assert Folder(root).identity() == before
    path = root / "val/a/1.jpg"
    path.write_bytes(path.read_bytes()[::-1])  # of the same length
    os.utime(path, ns=(0, 12345))
    changed = Folder(root).identity()
    path.unlink()
    assert len({before, changed, Folder(root).identity()}) == 3


def test_folder_names_what_it_leaves_out(tmp_path: Path, place: str) -> None:
    names = {f"train/a/{i}.jpg": picture(i) for i in range(3)}
    names |= {
        "val/a/0.jpg": picture(1),
        "train/a/notes.txt": b"x",
        "train/a/broken.png": b"not png",
    }
    root = tree(tmp_path / "in", names)
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    (root / "train/a/link.jpg").symlink_to(tmp_path / "secret.jpg")
    dataset = pack(Folder(root), place)
    assert dataset.samples("train") == 3
    reasons = dict(dataset.left_out)
    assert reasons["train/a/notes.txt"].startswith("not the name of an image file")
    assert "not a JPEG, PNG, WEBP, BMP" in reasons["train/a/broken.png"]
    assert reasons["train/a/link.jpg"] == "a link that leads out of the folder"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "has no class folders"),
        ({"train/a/1.jpg": b"", "val/1.jpg": b""}, "val holds images and no class folders: sort"),
        ({"train/a/1.jpg": b"", "valid/b/1.jpg": b"", "val/a/1.jpg": b""}, "two folders of split"),
        ({"ILSVRC/Data/a/1.jpg": b"", "ILSVRC/Data/b/1.jpg": b""}, "give --folder .*ILSVRC/Data,"),
        ({"a/1.jpg": b"", "b/x/1.jpg": b""}, r"b holds no image but folders \(x\): say --class-le"),
        ({"train/a/1.jpg": b"", "val/b/1.jpg": b""}, "differ in their classes: a, b"),
    ],
)
def test_odd_folders_are_explained(tmp_path: Path, names: dict[str, bytes], message: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(BadSource, match=message):
        Folder(tree(tmp_path / "in", names))


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="nowhere is not a folder"):
        Folder(tmp_path / "nowhere")


# idx files


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def mnist(root: Path, *, packed: bool = False) -> Path:
    root.mkdir(parents=True)
    for half, count in (("train", 6), ("t10k", 4)):
        images = np.arange(count * 9).reshape(count, 3, 3)
        parts = {"images-idx3": images, "labels-idx1": np.arange(count) % 3}
        for name, array in parts.items():
            data = idx(array)
            end = ".gz" if packed else ""
            path = root / f"{half}-{name}-ubyte{end}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_idx_keeps_its_halves(tmp_path: Path, place: str, packed: bool) -> None:
    dataset = pack(Idx(mnist(tmp_path / "mnist", packed=packed)), place)
    assert {name: dataset.samples(name) for name in dataset.splits} == {"train": 6, "val": 4}
    assert dataset.classes == ("0", "1", "2")


def test_idx_with_a_cut_file_is_named(tmp_path: Path) -> None:
    root = mnist(tmp_path / "mnist")
    path = root / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadSource, match=r"train-images-idx3-ubyte has 53 values, .* says 54"):
        Idx(root)


def test_idx_without_its_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="has no train-images-idx3-ubyte"):
        Idx(tmp_path)


# the manifest


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("digits", "digits"),
        ("cifar10", "cifar --path cifar-10-binary.tar.gz"),
        ("imagenet1k", "imagenet --train-tar TAR --val-tar TAR --val-labels FILE"),
        ("photos", "folder --folder FOLDER"),
    ],
)
def test_missing_dataset_names_its_pack_command(place: str, name: str, command: str) -> None:
    uri = f"{place}/{name}"
    with pytest.raises(DatasetNotFound) as raised:
        load_dataset(uri)
    assert f"pipelines/pack.py {command} --out {uri}" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=99), "format version 99, this code reads 1"),
        (lambda m: m.pop("splits"), "there is no splits"),
        (lambda m: m.pop("digest"), "there is no digest"),
        (lambda m: m["classes"].append("cow"), "was edited"),
        (lambda m: m["splits"]["train"]["shards"][0].update(samples=1), "was edited"),
    ],
)
def test_edited_manifest_is_refused(place: str, change, message: str) -> None:
    pack(Numbers(5), place)
    path = Path(place) / "dataset.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BadDataset, match=message):
        load_dataset(place)


def test_missing_split_lists_what_there_is(digits: Dataset) -> None:
    with pytest.raises(BadDataset, match="has no split 'test'; it has train, val"):
        load_index(digits, "test")


def test_missing_and_changed_shards_are_named(place: str) -> None:
    dataset = pack(Numbers(50), place, shard_bytes=20_480)
    shard = Path(place) / "train-000001.tar"
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(BadDataset, match=r"train-000001\.tar .* has \d+ bytes, its manifest says"):
        check_shards(dataset)
    shard.unlink()
    with pytest.raises(BadDataset, match=r"train-000001\.tar .* is missing"):
        check_shards(dataset)


def test_cut_index_is_named(place: str) -> None:
    dataset = pack(Numbers(50), place)
    path = Path(place) / "index-train.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadDataset, match=r"index-train\.npy has \d+ bytes, its manifest says"):
        load_index(dataset, "train")


# PNG


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (28, 28), (300, 300), (5, 7, 3), (200, 200, 3)])
def test_stored_png_is_read_back_by_pillow(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(png(pixels))) as image:
        assert np.array_equal(np.asarray(image), pixels)
