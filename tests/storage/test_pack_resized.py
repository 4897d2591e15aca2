"""Packing with --shorter-side: large images become smaller JPEGs, small ones keep their bytes."""

import io
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.dataset import MANIFEST, load_dataset
from storage.decode import Crop, decode
from storage.errors import BadDataset, BadImage, BadSource, DatasetExists
from storage.index import load_index
from storage.objects import open_store
from storage.pack import pack
from storage.pack.execute import Tally
from storage.pack.folder import Folder
from storage.pack.hf import HuggingFace
from storage.pack.packed import Packed
from storage.pack.shrink import library_here, resized_by
from storage.pack.stored import Rule, Stored
from storage.reader import read_samples
from storage.resized import Resized
from storage.verify import verify
from tests.storage.support.images import encoded, gradient
from tests.storage.test_decode import mpo
from tests.storage.test_pack import files, tree
from tests.storage.test_pack_hf import good

WHOLE = Crop(image_size=16, kind="resize")


def rule(side: int = 32, quality: int | None = None) -> Rule:
    return Rule(resized=resized_by(side, quality))


def size(stored: Stored) -> tuple[int, int]:
    with Image.open(io.BytesIO(stored.data)) as image:
        return image.size


def seen(data: bytes) -> np.ndarray:
    """The whole image as training sees it: int [16, 16, 3]."""
    return decode(data, WHOLE, seed=0, epoch=0, index=0).astype(int)


def photos(root: Path, count: int = 12) -> Path:
    """Two classes in two splits, every third image already small."""
    return tree(
        root,
        {
            f"{split}/{label}/{i}.jpg": encoded(
                gradient(*((40, 24) if i % 3 == 0 else (120 + i, 90))), "JPEG"
            )
            for split in ("train", "val")
            for label in "ab"
            for i in range(count)
        },
    )


@pytest.mark.parametrize(
    ("width", "height", "wanted"),
    [(120, 90, (43, 32)), (90, 120, (32, 43)), (500, 33, (485, 32)), (33, 33, (32, 32))],
)
def test_the_shorter_side_is_the_wanted_one(
    width: int, height: int, wanted: tuple[int, int]
) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"):
        stored = rule()(encoded(gradient(width, height), kind))
        assert (stored.suffix, size(stored)) == ("jpg", wanted)
        assert stored.notes == ("resized to a shorter side of 32 px",)


def test_a_jpeg_decoded_at_a_coarser_scale_gets_the_same_size() -> None:
    large = rule(100)(encoded(gradient(1603, 1201), "JPEG", quality=95))
    assert size(large) == (133, 100)
    assert np.abs(seen(large.data) - seen(encoded(gradient(1603, 1201), "PNG"))).mean() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_is_small_enough_keeps_its_bytes(kind: str) -> None:
    data = encoded(gradient(400, 32), kind)
    assert rule(32)(data) == Rule()(data)
    assert rule(32)(data).data == data
    assert rule(33)(data).data == data
    assert rule(31)(data).data != data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_looks_the_same(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(gradient(120, 90), "JPEG", quality=95, exif=exif)
    stored = rule(80)(turned)
    assert size(stored) == ((107, 80) if orientation < 5 else (80, 107))
    assert np.abs(seen(stored.data) - seen(turned)).mean() <= 2  # turned otherwise, over 50


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(gradient(120, 90)).convert("L"), "JPEG"),
        encoded(Image.fromarray(gradient(120, 90)).convert("CMYK"), "JPEG"),
        encoded(Image.fromarray(np.dstack([gradient(120, 90), gradient(120, 90)[..., :1]])), "PNG"),
        encoded(Image.fromarray(gradient(120, 90)).convert("P"), "PNG"),
        encoded(Image.fromarray(gradient(120, 90)).convert("LA"), "PNG"),
        encoded(np.linspace(0, 65535, 120 * 90).astype(np.uint16).reshape(90, 120), "PNG"),
        mpo(),
    ],
    ids=["grey", "CMYK", "alpha", "palette", "grey with alpha", "16 bits", "MPO"],
)
def test_every_kind_of_pixel_is_what_the_decoder_makes_of_it(data: bytes) -> None:
    stored = rule(19)(data)
    assert min(size(stored)) == 19
    assert np.abs(seen(stored.data) - seen(data)).mean() <= 4


def test_significant_bits_are_kept_in_view() -> None:
    values = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    data = encoded(values, "PNG")
    bright = Rule(gray_bits=12, resized=resized_by(32, None))(data)
    assert seen(bright.data).max() > 240
    assert seen(rule()(data).data).max() < 20


def test_an_image_that_does_not_decode_is_left_out_and_named(tmp_path: Path, place: str) -> None:
    root = photos(tmp_path / "in")
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    whole = encoded(noise, "PNG")
    damaged = whole[:900] + bytes(900) + whole[1800:]  # header and end are there
    (root / "train/a/damaged.png").write_bytes(damaged)
    dataset = pack(Folder(root, rule=rule()), place)
    assert [what for what, _ in dataset.left_out] == ["train/a/damaged.png"]
    for refusing in (rule(), seen):
        with pytest.raises(BadImage):
            refusing(damaged)


def test_a_jpeg_of_which_half_is_missing_stays_what_the_decoder_makes_of_it() -> None:
    whole = encoded(gradient(120, 90), "JPEG", quality=95)
    torn = whole[: len(whole) // 2] + b"\xff\xd9"  # libjpeg makes the rest grey
    assert np.abs(seen(rule(80)(torn).data) - seen(torn)).mean() <= 3


def test_a_png_too_long_for_a_jpeg_is_named() -> None:
    with pytest.raises(BadImage, match="pixels cannot be a JPEG"):
        rule(32)(encoded(Image.new("L", (70_000, 33)), "PNG"))


def test_same_input_same_bytes_in_another_process(tmp_path: Path) -> None:
    root = photos(tmp_path / "in")
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    dataset = pack(Folder(root, rule=rule()), one, shard_bytes=40_960)
    code = (
        "import sys; from storage.pack import pack; from storage.pack.folder import Folder;"
        "from tests.storage.test_pack_resized import rule;"
        "pack(Folder(sys.argv[1], rule=rule()), sys.argv[2], shard_bytes=40_960)"
    )
    subprocess.run([sys.executable, "-c", code, str(root), other], check=True)
    assert files(one) == files(other)
    assert len(dataset.shards("train")) > 1
    assert verify(dataset) == ()


def test_what_was_done_is_in_the_manifest_and_the_digest(tmp_path: Path) -> None:
    root = photos(tmp_path / "in")
    found = {
        str(how): pack(
            Folder(root, rule=Rule(resized=how)), str(tmp_path / f"{how}".replace(" ", ""))
        )
        for how in (None, resized_by(32, None), resized_by(32, 80), resized_by(1000, None))
    }
    assert len({dataset.digest for dataset in found.values()}) == 4
    dataset = found[str(resized_by(32, 80))]
    content = json.loads(open_store(dataset.uri).read(MANIFEST))
    assert content["resized"] == {
        "shorter_side": 32,
        "quality": 80,
        "filter": "bicubic",
        "library": library_here(),
    }
    assert load_dataset(dataset.uri) == dataset
    assert dict(dataset.notes) == {"resized to a shorter side of 32 px": 32}
    content["resized"]["quality"] = 90
    open_store(dataset.uri).write(MANIFEST, json.dumps(content).encode())
    with pytest.raises(BadDataset, match="was edited"):
        load_dataset(dataset.uri)


def test_a_dataset_of_other_sizes_is_not_overwritten(tmp_path: Path, place: str) -> None:
    root = photos(tmp_path / "in")
    first = pack(Folder(root, rule=rule()), place)
    assert pack(Folder(root, rule=rule()), place).digest == first.digest
    for other in (Rule(), rule(24), rule(32, 91)):
        with pytest.raises(DatasetExists, match=r"shorter side 32, quality 90.*--force"):
            pack(Folder(root, rule=other), place)
    assert pack(Folder(root, rule=rule(24)), place, force=True).resized == resized_by(24, 90)


class Stopped(Exception):
    pass


def stopping(task, items, *, work_bytes):
    """Run the first task and give up."""
    yield task(items[0])
    raise Stopped


def test_packing_that_was_stopped_goes_on_with_the_same_settings_only(
    tmp_path: Path, place: str
) -> None:
    root = photos(tmp_path / "in")
    unbroken = pack(Folder(root, rule=rule()), str(tmp_path / "unbroken"), shard_bytes=40_960)
    with pytest.raises(Stopped):
        pack(Folder(root, rule=rule()), place, shard_bytes=40_960, run=stopping)
    for other in (Rule(), rule(24), rule(32, 91)):
        with pytest.raises(DatasetExists, match="Say the same --shorter-side and --quality"):
            pack(Folder(root, rule=other), place, shard_bytes=40_960)
    told: list[Tally] = []
    dataset = pack(Folder(root, rule=rule()), place, shard_bytes=40_960, progress=told.append)
    assert told[0].found_shards == 1
    assert dataset.digest == unbroken.digest
    assert files(place) == files(str(tmp_path / "unbroken"))


def test_a_node_with_another_library_is_refused(tmp_path: Path, place: str) -> None:
    how = resized_by(32, None)
    assert how is not None
    source = Folder(photos(tmp_path / "in"), rule=Rule(resized=replace(how, library="Pillow 1.0")))
    with pytest.raises(BadSource, match=r"packing began with Pillow 1\.0"):
        pack(source, place)


def test_a_packed_dataset_is_packed_again_smaller(tmp_path: Path) -> None:
    large = pack(Folder(photos(tmp_path / "in")), str(tmp_path / "large"))
    small = pack(Packed(large, rule=rule()), str(tmp_path / "small"))
    assert small.resized == resized_by(32, 90)
    assert small.classes == large.classes
    kept = {}
    for dataset in (large, small):
        index = load_index(dataset, "train")
        raws = read_samples(dataset.shard_store(), index, np.arange(len(index)))
        kept[dataset.uri] = {  # name -> label and size
            raw.key.partition("-")[0]: (index.labels[raw.request], size(rule(1000)(raw.data)))
            for raw in raws
        }
    assert kept[small.uri] == {
        key: (label, (w, h) if h <= 32 else (round(w * 32 / h), 32))
        for key, (label, (w, h)) in kept[large.uri].items()
    }
    assert pack(Packed(large, rule=rule()), str(tmp_path / "again")).digest == small.digest


def test_neighbours_of_a_packed_dataset_are_read_together(tmp_path: Path, place: str) -> None:
    """A shard is made of runs of them: 40 images are three requests to S3, not 40."""
    large = pack(Folder(photos(tmp_path / "in", count=20)), place)
    assert large.samples("train") == 40
    source = Packed(large, rule=rule())
    keys = [source.read("train", i).key for i in range(40)]
    assert source._store.traffic.requests == 3
    assert len(set(keys)) == 40
    pickled = pickle.loads(pickle.dumps(source))
    assert pickled.read("train", 17).key == keys[17]


def test_a_damaged_image_of_a_packed_dataset_is_left_out(tmp_path: Path) -> None:
    """The others of its run are packed."""
    large = pack(Folder(photos(tmp_path / "in")), str(tmp_path / "large"))
    (tar,) = (tmp_path / "large").glob("train*.tar")
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd9", b"\xff\xd8", 1))
    small = pack(Packed(large, rule=rule()), str(tmp_path / "small"))
    assert small.samples("train") == large.samples("train") - 1
    ((what, reason),) = small.left_out
    assert what.startswith(tar.name)
    assert "checksum" in reason


def test_parquet_files_are_resized(tmp_path: Path, place: str) -> None:
    good(tmp_path / "in/data/train-00000-of-00001.parquet", 0, 9)
    good(tmp_path / "in/data/validation-00000-of-00001.parquet", 0, 6)
    dataset = pack(HuggingFace(tmp_path / "in", rule=rule(4)), place)
    assert dict(dataset.notes)["resized to a shorter side of 4 px"] == 15
    assert dataset.resized == resized_by(4, None)


@pytest.mark.parametrize(
    ("side", "quality", "reason"),
    [
        (0, None, "--shorter-side 0: wanted at least 1"),
        (256, 0, "--quality 0: wanted 1 to 100"),
        (256, 101, "--quality 101: wanted 1 to 100"),
        (None, 90, "say --shorter-side too"),
    ],
)
def test_bad_settings_are_named(side: int | None, quality: int | None, reason: str) -> None:
    with pytest.raises(BadSource, match=reason):
        resized_by(side, quality)
    assert resized_by(None, None) is None


def test_applies_to_larger_images_only() -> None:
    how = Resized(shorter_side=8, quality=90, filter="", library="")
    assert [how.applies(*size) for size in ((8, 99), (99, 8), (9, 9))] == [False, False, True]
