"""Hugging Face's parquet files in small, laid out as the Hub has them."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage.dataset import Dataset
from storage.errors import BadSource
from storage.index import load_index
from storage.objects import open_store
from storage.pack import pack
from storage.pack.hf import HuggingFace
from storage.pack.plan import Slice, order
from storage.pack.source import LeftOut
from storage.reader import read_samples
from storage.verify import verify
from tests.storage.support.images import encoded, gradient

NAMES = ["cat", "dog", "frog"]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image(i: int) -> bytes:
    return encoded(gradient(8 + i % 200, 8 + i // 200), ("PNG", "JPEG", "WEBP")[i % 3])


def cell(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


def write(
    path: Path,
    images: list[Any],
    labels: list[Any],
    *,
    names: list[str] | None = NAMES,
    columns: tuple[str, str] = ("image", "label"),
    types: tuple[pa.DataType, pa.DataType] = (IMAGE, pa.int64()),
    rows: int = 10,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": pa.array([str(i) for i in range(len(images))]),
            columns[0]: pa.array(images, types[0]),
            columns[1]: pa.array(labels, types[1]),
        }
    )
    if names is not None:
        features = {
            columns[0]: {"_type": "Image"},
            columns[1]: {"names": names, "_type": "ClassLabel"},
            "id": {"dtype": "string", "_type": "Value"},
        }
        info = {"info": {"features": features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=rows)
    return path


def good(path: Path, start: int, count: int, **options: Any) -> Path:
    numbers = range(start, start + count)
    images = [cell(image(i), f"{i}.jpg") for i in numbers]
    return write(path, images, [i % 3 for i in numbers], **options)


def contents(dataset: Dataset, split: str) -> dict[str, tuple[bytes, int]]:
    index = load_index(dataset, split)
    found = read_samples(open_store(dataset.uri), index, np.arange(len(index)))
    return {raw.key: (raw.data, int(index.labels[raw.request])) for raw in found}


LAYOUTS = [
    ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test.parquet"),
    ("train/0000.parquet", "train/0001.parquet", "validation/0000.parquet"),
    ("default/train/0.parquet", "default/train/1.parquet", "default/val/0.parquet"),
    ("train-0.parquet", "train-1.parquet", "dev.parquet"),
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_and_labels_are_stored_as_they_are(
    tmp_path: Path, place: str, layout: tuple[str, str, str]
) -> None:
    for name, start, count in zip(layout, (0, 23, 40), (23, 17, 12), strict=True):
        good(tmp_path / "in" / name, start, count)
    dataset = pack(HuggingFace(tmp_path / "in"), place)
    assert dataset.classes == tuple(NAMES)
    train, val = contents(dataset, "train"), contents(dataset, "val")
    assert [train[f"train-{i:09d}"] for i in range(40)] == [(image(i), i % 3) for i in range(40)]
    held = [(image(i), i % 3) for i in range(40, 52)]
    assert [val[f"val-{i:09d}"] for i in range(12)] == held
    assert dataset.left_out == ()
    assert verify(dataset) == ()


def test_test_files_beside_a_validation_split_are_the_test_split(tmp_path: Path) -> None:
    for name, count in (("train", 9), ("test", 8), ("validation", 7)):
        good(tmp_path / f"data/{name}-00000-of-00001.parquet", 0, count)
    good(tmp_path / ".cache/huggingface/x.parquet", 0, 5)
    assert HuggingFace(tmp_path).splits == {"train": 9, "val": 7, "test": 8}
    write(tmp_path / "data/test-00000-of-00001.parquet", [cell(image(1))] * 2, [-1, -1])
    unlabelled = HuggingFace(tmp_path)
    assert unlabelled.splits == {"train": 9, "val": 7}
    assert unlabelled.notes == {"test files without labels, not packed": 1}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training-00000-of-00001", "testing-00000-of-00001"),
        ("data/train-0", "data/validation-0"),
        ("train/0000", "valid/0000"),
        ("plain/Train", "plain/Val"),
    ],
)
def test_the_usual_names_of_files_are_splits(tmp_path: Path, train: str, test: str) -> None:
    """Both were one pool, split anew: test images were trained on."""
    good(tmp_path / f"{train}.parquet", 0, 20)
    good(tmp_path / f"{test}.parquet", 20, 6)
    source = HuggingFace(tmp_path)
    assert source.splits == {"train": 20, "val": 6}
    assert {source.read("val", i).data for i in range(6)} == {image(20 + i) for i in range(6)}


def test_test_files_alone_are_the_validation_split_unless_a_share_is_held_out(
    tmp_path: Path,
) -> None:
    for name, count in (("training", 60), ("testing", 8)):
        good(tmp_path / f"{name}-00000-of-00001.parquet", 0, count)
    source = HuggingFace(tmp_path)
    assert source.splits == {"train": 60, "val": 8}
    assert "the test files are the validation split" in next(iter(source.notes))
    splits = HuggingFace(tmp_path, validation_fraction=0.3).splits
    assert (splits["test"], splits["train"] + splits["val"]) == (8, 60)


STRINGS = [
    (pa.string(), ["cow", "ant", "cow"], ("ant", "cow"), [1, 0, 1]),
    (pa.large_string(), ["10", "9", "10"], ("9", "10"), [1, 0, 1]),
    (pa.bool_(), [True, False, True], ("False", "True"), [1, 0, 1]),
]


@pytest.mark.parametrize(("kind", "labels", "classes", "numbers"), STRINGS)
@pytest.mark.parametrize("asked", [None, "label"])
def test_strings_and_booleans_are_class_names(
    tmp_path: Path,
    place: str,
    kind: pa.DataType,
    labels: list,
    classes: tuple,
    numbers: list,
    asked,
) -> None:
    images = [cell(image(i)) for i in range(3)]
    for split in ("train", "validation"):
        write(tmp_path / f"in/{split}.parquet", images, labels, types=(IMAGE, kind), names=None)
    dataset = pack(HuggingFace(tmp_path / "in", label_column=asked), place)
    assert dataset.classes == classes
    found = contents(dataset, "train")
    assert [found[f"train-{i:09d}"][1] for i in range(3)] == numbers
    assert dict(dataset.notes) == {"class names are the 2 values of 'label'": 1}


def test_a_missing_string_label_is_left_out(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(
            tmp_path / f"{split}.parquet", [cell(image(1))] * 3, ["a", None, "b"],
            types=(IMAGE, pa.string()), names=None,
        )  # fmt: skip
    source = HuggingFace(tmp_path)
    with pytest.raises(LeftOut, match="no label"):
        source.read("train", 1)


def test_without_a_validation_split_one_is_held_out(tmp_path: Path, place: str) -> None:
    good(tmp_path / "in/some.parquet", 0, 200)
    dataset = pack(HuggingFace(tmp_path / "in", validation_fraction=0.25), place)
    found = {**contents(dataset, "train"), **contents(dataset, "val")}
    assert sorted(data for data, _ in found.values()) == sorted(image(i) for i in range(200))
    assert 30 < dataset.samples("val") < 70


def test_plain_binary_images_of_an_unnamed_column_are_found(tmp_path: Path, place: str) -> None:
    images = [image(i) for i in range(6)]
    for half in ("train", "test"):
        write(
            tmp_path / f"in/{half}.parquet",
            images,
            [0, 1, 2, 3, 4, 4],
            names=None,
            columns=("img", "fine_label"),
            types=(pa.large_binary(), pa.int8()),
        )
    dataset = pack(HuggingFace(tmp_path / "in"), place)
    assert dataset.classes == ("0", "1", "2", "3", "4")
    assert contents(dataset, "train")["train-000000005"] == (images[5], 4)


def test_a_class_sorted_file_is_mixed(tmp_path: Path, place: str) -> None:
    """Each shard holds its row groups' classes, not in their order."""
    labels = np.repeat(np.arange(10), 100)  # 1,000 rows, 50 row groups, 5 a class
    images = [cell(image(int(i) % 7)) for i in range(1000)]
    names = [str(i) for i in range(10)]
    for half in ("train", "val"):
        write(tmp_path / f"in/{half}.parquet", images, labels.tolist(), names=names, rows=20)
    source = HuggingFace(tmp_path / "in")
    dataset = pack(source, place, shard_bytes=512 << 10)
    index = load_index(dataset, "train")
    shard, label = index.rows["shard"], index.rows["label"]
    assert len(dataset.shards("train")) >= 4
    assert (np.bincount(label) == 100).all()
    classes = [len(np.unique(label[shard == number])) for number in range(shard.max())]
    assert min(classes) >= 5
    neighbours = np.mean(label[1:] == label[:-1])
    assert neighbours < 0.3


def test_a_shard_reads_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good(tmp_path / "train.parquet", 0, 200)
    good(tmp_path / "val.parquet", 0, 10)
    source = pickle.loads(pickle.dumps(HuggingFace(tmp_path)))
    opened: list[Path] = []
    plain = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda path: opened.append(path) or plain(path))
    one = Slice(split="train", number=1, start=75, stop=150)
    positions = order(source, one)
    assert len(set(positions.tolist())) == 75
    for i in np.sort(positions).tolist():
        assert source.read("train", i).data == image(i)
    assert len(opened) == 8  # seven whole row groups, and a half


def test_what_cannot_be_used_is_left_out_with_its_reason(tmp_path: Path, place: str) -> None:
    png = image(0)
    images = [None, cell(None, "a.jpg"), cell(None), cell(b"GIF89a"), cell(png[:-20])]
    images += [cell(png)] * 5
    write(tmp_path / "in/train.parquet", images, [0, 1, 2, 0, 1, 3, -1, None, 0, 2])
    good(tmp_path / "in/val.parquet", 0, 5)
    dataset = pack(HuggingFace(tmp_path / "in"), place)
    assert sorted(contents(dataset, "train")) == ["train-000000008", "train-000000009"]
    reasons = dict(dataset.left_out)
    assert reasons["train.parquet, row 0"] == reasons["train.parquet, row 2"] == "no image"
    assert reasons["train.parquet, row 1"] == "no bytes, only the path 'a.jpg'"
    assert "not a JPEG, PNG, WEBP" in reasons["train.parquet, row 3"]
    assert "truncated" in reasons["train.parquet, row 4"]
    assert reasons["train-000000005"] == "label 3 of 3 classes"
    assert reasons["train-000000006"] == "label -1 of 3 classes"
    assert reasons["train.parquet, row 7"] == "no label"


def test_a_split_without_labels_is_an_error(tmp_path: Path, place: str) -> None:
    good(tmp_path / "in/train.parquet", 0, 5)
    write(tmp_path / "in/test.parquet", [cell(image(i)) for i in range(4)], [-1] * 4)
    with pytest.raises(BadSource, match=r"no sample of split 'val'.*label -1 of 3 classes"):
        pack(HuggingFace(tmp_path / "in"), place)
    assert not Path(place).exists()


def test_columns_are_taken_by_name_if_asked_for(tmp_path: Path) -> None:
    good(tmp_path / "train.parquet", 0, 5, columns=("a", "b"), names=None)
    good(tmp_path / "val.parquet", 0, 5, columns=("a", "b"), names=None)
    source = HuggingFace(tmp_path, image_column="a", label_column="b")
    assert source.classes == ("0", "1", "2")
    with pytest.raises(BadSource, match=r"train\.parquet has no column 'c'; it has id \(string\)"):
        HuggingFace(tmp_path, image_column="c")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no \.parquet file$"),
        ({"a.arrow": b""}, r"has no \.parquet file but a\.arrow: write parquet"),
        (
            {"train.parquet": b"PAR1 but not really"},
            r"train\.parquet is not a parquet file, or incomplete",
        ),
        ({"test.parquet": good}, r"test\.parquet belongs to no split that can be used"),
        ({"train.parquet": good, "more.parquet": good}, r"more\.parquet belongs to no split"),
    ],
)
def test_odd_folders_are_explained(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    for name, data in files.items():
        if data is good:
            good(tmp_path / name, 0, 4)
        else:
            (tmp_path / name).write_bytes(data)
    with pytest.raises(BadSource, match=message) as caught:
        HuggingFace(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"types": (IMAGE, pa.float64()), "names": None},
            r"wanted one label column, found none among .*label \(double\): name it with --label-c",
        ),
        (
            {"types": (IMAGE, pa.float64())},
            r"column 'label': wanted integers, strings or booleans, found double",
        ),
        (
            {"types": (pa.list_(pa.uint8()), pa.int64())},
            r"column 'image': wanted struct\{bytes, path\} or binary, found list<",
        ),
        ({"names": ["cat", "cow", "frog"]}, r"val\.parquet names other classes than the first"),
        ({"columns": ("img", "label")}, r"val\.parquet has no column 'image'"),
    ],
)
def test_odd_columns_are_explained(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    kinds = options.get("types", (IMAGE, pa.int64()))
    data = image(0)
    cells = [list(data) if pa.types.is_list(kinds[0]) else cell(data)] * 3
    labels = ["a", "b", "c"] if kinds[1] == pa.string() else [0, 1, 2]
    if "types" in options:
        write(tmp_path / "train.parquet", cells, labels, **options)
    else:
        good(tmp_path / "train.parquet", 0, 3)
    write(tmp_path / "val.parquet", cells, labels, **options)
    with pytest.raises(BadSource, match=message) as caught:
        HuggingFace(tmp_path)
    assert "\n" not in str(caught.value)


def test_two_label_columns_are_not_guessed_between(tmp_path: Path) -> None:
    for half in ("train", "test"):
        path = good(tmp_path / f"{half}.parquet", 0, 4, names=None)
        table = pq.read_table(path).rename_columns(["id", "img", "fine_label"])
        table = table.append_column("coarse_label", pa.array([0, 0, 1, 1]))
        pq.write_table(table, path)
    with pytest.raises(BadSource, match=r"several \(fine_label, coarse_label\)"):
        HuggingFace(tmp_path)
    assert HuggingFace(tmp_path, label_column="coarse_label").classes == ("0", "1")


def test_png_pixels_survive(tmp_path: Path, place: str) -> None:
    good(tmp_path / "in/train.parquet", 0, 4)
    good(tmp_path / "in/val.parquet", 0, 4)
    data, _ = contents(pack(HuggingFace(tmp_path / "in"), place), "train")["train-000000003"]
    with Image.open(io.BytesIO(data)) as found:
        assert np.array_equal(np.asarray(found), gradient(11, 8))
