"""Labels in a CSV, as competitions and hospitals give them out: one class per image, or refused."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from storage.errors import BadSource
from storage.index import load_index
from storage.objects import open_store
from storage.pack import pack
from storage.pack.label_table import Columns
from storage.pack.source import LeftOut
from storage.pack.table import Table
from storage.reader import read_samples
from tests.storage.test_pack import picture, tree

IMAGES = {f"img/{i}.jpg": picture(i) for i in range(40)}
ROWS = [f"{i},{'dog' if i % 3 else 'cat'}" for i in range(40)]


def made(folder: Path, *lines: str, name: str = "labels.csv", newline: str = "\n") -> Path:
    path = folder / name
    path.write_text(newline.join(lines) + newline, newline="")
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tree(tmp_path, IMAGES) / "img"


def test_bytes_and_classes_are_those_of_the_table(tmp_path: Path, images: Path, place: str) -> None:
    table = made(tmp_path, "id,breed", *ROWS)  # the names of the files lack their suffix
    dataset = pack(Table(table, images), place)
    assert dataset.classes == ("cat", "dog")
    assert dataset.notes == ()
    assert dataset.left_out == ()
    assert dataset.samples("train") + dataset.samples("val") == 40
    assert 0 < dataset.samples("val") < 12
    for split in ("train", "val"):
        index = load_index(dataset, split)
        for i, raw in enumerate(read_samples(open_store(place), index, np.arange(len(index)))):
            assert raw.data == IMAGES[f"img/{raw.key}.jpg"]
            assert index.labels[i] == (1 if int(raw.key) % 3 else 0)


def labelled(source: Table, split: str) -> dict[str, str]:
    """Key -> class of every sample that can be packed."""
    samples = [source.read(split, i) for i in range(source.splits[split])]
    return {sample.key: source.classes[sample.label] for sample in samples}


@pytest.mark.parametrize(
    ("head", "delimiter", "newline"),
    [
        ("image,label,split", ",", "\n"),
        ("\ufeffFilename;Class;Set", ";", "\r\n"),
        ("split\tother\tpath\tcategory", "\t", "\n"),
    ],
)
def test_a_column_names_the_split(
    tmp_path: Path, images: Path, head: str, delimiter: str, newline: str
) -> None:
    names = head.lstrip("\ufeff").split(delimiter)
    lines = []
    for i in range(6):
        split = ("train", "valid", "TEST")[i % 3]
        cells = {"split": split, "set": split, "other": "'x"}
        cells |= dict.fromkeys(("image", "filename", "path"), f"{i}.jpg")
        lines.append(delimiter.join(cells.get(name.lower(), '"a b"') for name in names))
    source = Table(made(tmp_path, head, *lines, newline=newline), images)
    assert source.splits == {"train": 2, "val": 2, "test": 2}
    assert source.classes == ("a b",)
    assert [labelled(source, split).keys() for split in source.splits] == [
        {"0", "3"}, {"1", "4"}, {"2", "5"}
    ]  # fmt: skip
    assert source.notes["image files without a row ignored"] == 34


def test_numbers_are_classes_in_their_order(tmp_path: Path, images: Path) -> None:
    table = made(tmp_path, "image,label", *(f"{i}.jpg,{i % 12}" for i in range(40)))
    source = Table(table, images)
    assert source.classes == tuple(str(i) for i in range(12))
    found = labelled(source, "train") | labelled(source, "val")
    assert found == {str(i): str(i % 12) for i in range(40)}


def test_validation_may_have_a_table_of_its_own(tmp_path: Path, images: Path) -> None:
    train = made(tmp_path, "image,label", "0.jpg,a", "1.jpg,b")
    val = made(tmp_path, "image,label", "2.jpg,b", "1.jpg,b", name="val.csv")
    source = Table(train, images, val_table=val)
    assert labelled(source, "val") == {"1": "b", "2": "b"}
    assert source.notes["images of val that are in train too"] == 1
    other = made(tmp_path, "image,label", "2.jpg,c", name="other.csv")
    with pytest.raises(BadSource, match="classes that train lacks: c"):
        Table(train, images, val_table=other)


def test_the_rows_of_test_are_validation_unless_a_part_is_held_out(
    tmp_path: Path, images: Path
) -> None:
    rows = [f"{i}.jpg,a,{'test' if i < 4 else 'train'}" for i in range(40)]
    table = made(tmp_path, "image,label,split", *rows)
    assert Table(table, images).splits == {"train": 36, "val": 4}
    held = Table(table, images, validation_fraction=0.5)
    assert list(held.splits) == ["train", "val", "test"]
    assert held.splits["test"] == 4
    assert held.splits["train"] + held.splits["val"] == 36


def test_unusual_columns_are_said(tmp_path: Path, images: Path) -> None:
    table = made(tmp_path, "photo,what,label", "0.jpg,a,9", "1.jpg,b,9")
    with pytest.raises(BadSource, match=r"no column fits .*photo, what, label - say --file-column"):
        Table(table, images)
    columns = Columns(file="photo", label="what")
    assert Table(table, images, columns=columns, validation_fraction=0.5).classes == ("a", "b")


def test_a_file_that_is_not_there_is_left_out_and_named(tmp_path: Path, images: Path) -> None:
    table = made(tmp_path, "image,label", "0.jpg,a", "gone.jpg,a", "lost,b")
    source = Table(table, images, val_table=made(tmp_path, "image,label", "1,a", name="v.csv"))
    reasons = {}
    for i in range(source.splits["train"]):
        try:
            source.read("train", i)
        except LeftOut as error:
            reasons[error.what] = error.reason
    assert reasons == dict.fromkeys(("gone.jpg", "lost"), "there is no such file")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["image,label", "0.jpg,a", "0.jpg,b"], "line 3: 0.jpg is 'b', and 'a' in .*line 2"),
        (["image,label", "0.jpg,Effusion|Mass"], "line 2: Effusion|Mass looks like several"),
        (["image,cat,dog,bird", "0.jpg,1,0,1"], "no column fits for the label .*several labels"),
        (["image,id,label", "0.jpg,0,a"], "2 columns fit for the file .*--file-column"),
        (["image,label", "../secret.jpg,a"], "line 2: '../secret.jpg' is not a file below"),
        (["image,label", "/etc/passwd,a"], "line 2: '/etc/passwd' is not a file below"),
        (["image,label", "0.jpg"], "line 2: 1 fields, the first line has 2"),
        (["image,label", "0.jpg,"], "line 2: no label"),
        (["image,label,split", "0.jpg,a,fold1"], "split 'fold1': wanted train, val or test"),
        (["image,label,split", "0.jpg,a,val"], "no row of split train"),
        (["image,label"], "no rows"),
        ([""], "no column fits"),
        (["image,label", 'a,"b'], "line 2: unexpected end of data"),
    ],
)
def test_what_is_not_one_class_per_image_is_refused(
    tmp_path: Path, images: Path, lines: list[str], reason: str
) -> None:
    with pytest.raises(BadSource, match=reason) as caught:
        Table(made(tmp_path, *lines), images)
    assert "\n" not in str(caught.value)


@given(data=st.binary(max_size=60) | st.text(max_size=60).map(str.encode), headed=st.booleans())
@example(data=b"\xff,a\n", headed=True)
@example(data=b"a\0.jpg,b\n", headed=True)
@example(data=b"x" * 300 + b".jpg,b\n0.jpg,b\n", headed=True)
@example(data=b"a" * 200_000 + b",b\n", headed=True)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_samples_or_our_error(images: Path, data: bytes, headed: bool) -> None:
    table = images / "x.csv"
    table.write_bytes(b"image,label\n" * headed + data)
    try:
        source = Table(table, images, validation_fraction=0.5)
    except BadSource:
        return
    for split, count in source.splits.items():
        for i in range(count):
            with contextlib.suppress(LeftOut):
                assert source.read(split, i).data == IMAGES["img/0.jpg"]


def test_an_image_twice_is_one_sample(tmp_path: Path, images: Path) -> None:
    source = Table(
        made(tmp_path, "image,label", "0.jpg,a", "1,a", "0,a"), images, validation_fraction=0.5
    )
    assert sum(source.splits.values()) == 2
    assert source.notes["rows of train that repeat an image ignored"] == 1


def test_several_files_that_a_name_may_mean_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "img", {"a.jpg": picture(1), "a.png": picture(1)})
    with pytest.raises(BadSource, match=r"a may be a\.jpg, a\.png"):
        Table(made(tmp_path, "image,label", "a,x"), root)
