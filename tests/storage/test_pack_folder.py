"""Folders of images as people have them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.dataset import Dataset, load_dataset
from storage.errors import BadImage, BadSource
from storage.index import load_index
from storage.objects import open_store
from storage.pack import pack
from storage.pack.folder import Folder
from storage.pack.stored import Rule
from storage.reader import read_samples
from tests.storage.support.images import encoded, gradient
from tests.storage.test_decode import mpo
from tests.storage.test_pack import picture, tree


def half(*names: str, count: int = 3) -> dict[str, bytes]:
    """Some pictures of two classes below each folder."""
    return {f"{n}/{c}/{i}.jpg": picture(i) for n in names for c in "ab" for i in range(count)}


def counts(dataset: Dataset) -> dict[str, int]:
    return {split: dataset.samples(split) for split in dataset.splits}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train", "val"], {"train": 6, "val": 6}),
        (["Train", "Val"], {"train": 6, "val": 6}),
        (["train", "valid"], {"train": 6, "val": 6}),
        (["training", "validation"], {"train": 6, "val": 6}),
        (["train", "test"], {"train": 6, "val": 6}),
        (["training", "testing"], {"train": 6, "val": 6}),
        (["seg_train/seg_train", "seg_test/seg_test"], {"train": 6, "val": 6}),
        (["train", "valid", "test"], {"train": 6, "val": 6, "test": 6}),
    ],
)
def test_the_usual_names_of_folders_are_splits(
    tmp_path: Path, place: str, names: list[str], splits: dict[str, int]
) -> None:
    dataset = pack(Folder(tree(tmp_path / "in", half(*names))), place)
    assert counts(dataset) == splits
    assert dataset.classes == ("a", "b")
    said = [what for what, _ in dataset.notes]
    if "test" in str(names[1]):
        assert "is the validation split; --validation-fraction" in said[0]
    else:
        assert said == []


def test_an_official_test_split_is_kept_if_a_share_is_held_out(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", half("train", "test", count=30))
    splits = Folder(root, validation_fraction=0.3).splits
    assert splits["test"] == 60
    assert splits["train"] + splits["val"] == 60
    assert 8 < splits["val"] < 30
    assert list(splits) == ["train", "val", "test"]


def test_train_alone_gives_a_share_and_says_so(tmp_path: Path) -> None:
    source = Folder(tree(tmp_path / "in", half("train", count=30)))
    assert sum(source.splits.values()) == 60
    assert "no validation folder: a part of train/ is held out" in source.notes


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    names = {f"{c}/{i}.jpg": picture(i) for c in ("bus", "train", "val") for i in range(30)}
    assert Folder(tree(tmp_path / "in", names)).classes == ("bus", "train", "val")


def test_a_flat_test_folder_has_no_labels_and_is_ignored(tmp_path: Path) -> None:
    source = Folder(tree(tmp_path / "in", half("train", "val") | {"test/1.jpg": picture(1)}))
    assert source.splits == {"train": 6, "val": 6}
    assert source.notes == {"test/ has no class folders, so no labels: ignored": 1}


def test_a_class_that_validation_lacks_is_said(tmp_path: Path) -> None:
    names = half("train", "val")
    names = {name: data for name, data in names.items() if not name.startswith("val/b")}
    source = Folder(tree(tmp_path / "in", names))
    assert source.classes == ("a", "b")
    assert source.notes == {"classes that val/ has no folder of: b": 1}


def test_the_level_of_the_classes_can_be_said(tmp_path: Path) -> None:
    names = {f"{p}/{c}/{i}.jpg": picture(i) for p in ("p1", "p2") for c in "ab" for i in range(9)}
    root = tree(tmp_path / "in", names)
    with pytest.raises(
        BadSource, match=r"p1 holds no image but folders \(a, b\): say --class-level"
    ):
        Folder(root)
    assert Folder(root, class_level=1).classes == ("p1", "p2")
    deeper = Folder(root, class_level=2)
    assert deeper.classes == ("a", "b")
    assert sum(deeper.splits.values()) == 36
    with pytest.raises(BadSource, match="--class-level 0"):
        Folder(root, class_level=0)


def test_what_systems_leave_behind_is_ignored_and_said(tmp_path: Path, place: str) -> None:
    names = half("train", "val") | {
        "__MACOSX/train/a/._1.jpg": b"x", "train/@eaDir/x.jpg": b"x", "train/a/@eaDir/1.jpg": b"x",
        "val/b/._2.jpg": b"x", "val/b/Thumbs.db": b"x", "train/.DS_Store": b"x",
    }  # fmt: skip
    dataset = pack(Folder(tree(tmp_path / "in", names)), place)
    assert dataset.classes == ("a", "b")
    assert counts(dataset) == {"train": 6, "val": 6}
    assert dataset.left_out == ()
    assert dict(load_dataset(place).notes) == {
        "__MACOSX/ ignored": 1,
        "@eaDir/ ignored": 2,
        "._* ignored": 1,
        "Thumbs.db ignored": 1,
        ".DS_Store ignored": 1,
    }


@pytest.mark.parametrize("other", ["cat", "Caf\u0065\u0301"])
def test_classes_that_look_alike_are_said(tmp_path: Path, other: str) -> None:
    one = "Cat" if other == "cat" else "Caf\u00e9"
    names = {f"{c}/{i}.jpg": picture(i) for c in (one, other) for i in range(30)}
    source = Folder(tree(tmp_path / "in", names))
    assert len(source.classes) == 2
    assert any("differ in case or accents only" in note for note in source.notes)


def test_one_class_and_empty_ones_are_said(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", {f"a/{i}.jpg": picture(i) for i in range(30)})
    assert "only one class ('a'): there is nothing to classify" in Folder(root).notes
    (root / "empty").mkdir()
    ((note, count),) = Folder(root).notes.items()
    assert note.startswith("classes without a file")
    assert note.endswith(": empty")
    assert count == 1


def test_images_in_no_class_are_said(tmp_path: Path) -> None:
    source = Folder(tree(tmp_path / "in", half("train", "val") | {"train/x.jpg": picture(1)}))
    assert [note for note in source.notes if "belong to no class" in note]


PIXELS = gradient(30, 20)
FORMATS = {
    "a.bmp": ("BMP", {}), "a.tif": ("TIFF", {}), "a.TIFF": ("TIFF", {"compression": "tiff_lzw"}),
    "a.ppm": ("PPM", {}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "how"), FORMATS.items(), ids=list(FORMATS))
def test_other_formats_become_png_without_loss(
    tmp_path: Path, place: str, name: str, how: tuple
) -> None:
    data = encoded(PIXELS, how[0], **how[1])
    root = tree(tmp_path / "in", {f"{n}/{c}/{name}": data for n in ("train", "val") for c in "ab"})
    dataset = pack(Folder(root), place)
    assert dict(dataset.notes) == {f"{how[0]} stored as lossless PNG": 4}
    for raw in read_samples(open_store(place), load_index(dataset, "train"), np.arange(2)):
        with Image.open(io.BytesIO(raw.data)) as found:
            assert found.format == "PNG"
            assert np.array_equal(np.asarray(found), PIXELS)


def test_gif_and_avif_become_png_upright(tmp_path: Path) -> None:
    rule = Rule()
    assert rule(encoded(PIXELS, "GIF")).notes == ("GIF stored as lossless PNG",)
    for kind in ("AVIF", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = 6
        stored = rule(encoded(PIXELS, kind, exif=exif))
        with Image.open(io.BytesIO(stored.data)) as found:
            assert found.size == (20, 30)
            wanted = np.rot90(PIXELS, -1).astype(int)
            assert np.abs(np.asarray(found).astype(int) - wanted).mean() < 6


def test_jpegs_by_other_names_and_of_phones_are_stored_as_they_are(tmp_path: Path) -> None:
    names = {"a.jpe": picture(1), "a.jfif": picture(2), "b.JPG": mpo(), "a.bmp": picture(3)}
    root = tree(
        tmp_path / "in", {f"{n}/c/{k}": d for n in ("train", "val") for k, d in names.items()}
    )
    source = Folder(root)
    found = [source.read("train", i) for i in range(4)]
    assert {one.suffix for one in found} == {"jpg"}
    assert sorted(one.data for one in found) == sorted(names.values())
    assert [one.notes for one in found if one.notes] == [("first of 2 pictures of an MPO taken",)]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (lambda: encoded(Image.new("RGB", (8, 8)), "TIFF", save_all=True,
                         append_images=[Image.new("RGB", (8, 8))]), "a TIFF of 2 pages"),
        (lambda: encoded(Image.new("F", (8, 8)), "TIFF"), "pixels of mode 'F'"),
        (lambda: b"\0\0\0\x18ftypheic" + bytes(99), "HEIC, which needs a package: pip install"),
        (lambda: encoded(Image.new("L", (9000, 8000)), "TIFF", compression="tiff_lzw"),
         "bytes as a PNG, the limit is"),
    ],
)  # fmt: skip
def test_what_cannot_become_png_is_named(tmp_path: Path, image, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        Rule()(image())


def test_the_pixel_limit_names_the_option_that_raises_it() -> None:
    with pytest.raises(
        BadImage, match="30x20 pixels, the limit is 599: raise it with --max-pixels"
    ):
        Rule(max_pixels=599)(encoded(PIXELS, "JPEG"))
    assert Rule(max_pixels=600)(encoded(PIXELS, "JPEG")).suffix == "jpg"
    for pixels, bits in ((0, 16), (1 << 40, 16), (600, 7)):
        with pytest.raises(BadSource, match="wanted"):
            Rule(max_pixels=pixels, gray_bits=bits)


def test_twelve_bits_in_sixteen_are_said_and_can_be_kept(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    for kind in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(values), kind)
        notes = Rule()(data).notes
        assert notes[-1] == (
            "16-bit images that use 12 bits keep 16 grey levels: --gray-bits 12 keeps 256"
        )
        stored = Rule(gray_bits=12)(data)
        assert stored.notes == (f"16-bit {kind} stored as lossless PNG",)
        with Image.open(io.BytesIO(stored.data)) as found:
            assert np.array_equal(np.asarray(found), values >> 4)
    full = encoded(Image.fromarray(values << 4), "PNG")
    assert Rule()(full).notes == ()
    assert Rule()(full).data == full


def test_options_make_another_input_of_the_same_files(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", half("train", "val"))
    assert Folder(root).identity() == Folder(root, rule=Rule()).identity()
    assert Folder(root).identity() != Folder(root, rule=Rule(max_pixels=9)).identity()
