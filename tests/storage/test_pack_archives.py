"""CIFAR and ImageNet in small, laid out as published."""

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from storage.dataset import Dataset
from storage.errors import BadSource
from storage.index import load_index
from storage.objects import open_store
from storage.pack import pack
from storage.pack.cifar import Cifar
from storage.pack.imagenet import ImageNet
from storage.reader import read_samples
from tests.storage.support.images import encoded, gradient
from tests.storage.test_tar import tar


def records(count: int, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, label_bytes] and pixels [N, 3, 32, 32] of a binary file."""
    draw = np.random.default_rng(count)
    labels = draw.integers(0, 3, (count, label_bytes), dtype=np.uint8)
    return labels, draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def binary(count: int, label_bytes: int) -> bytes:
    labels, pixels = records(count, label_bytes)
    return np.concatenate([labels, pixels.reshape(count, -1)], axis=1).tobytes()


def cifar10() -> dict[str, bytes]:
    files = {f"data_batch_{i}.bin": binary(4, 1) for i in range(1, 6)}
    return {**files, "test_batch.bin": binary(5, 1), "batches.meta.txt": b"cat\ndog\nfrog\n\n"}


def folder(root: Path, files: dict[str, bytes]) -> Path:
    inner = root / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    for name, data in files.items():
        (inner / name).write_bytes(data)
    return root


def archive(root: Path, files: dict[str, bytes]) -> Path:
    path = root / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as out:
        for name, data in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def contents(dataset: Dataset, split: str) -> dict[str, tuple[bytes, int]]:
    index = load_index(dataset, split)
    found = read_samples(open_store(dataset.uri), index, np.arange(len(index)))
    return {raw.key: (raw.data, int(index.labels[raw.request])) for raw in found}


@pytest.mark.parametrize("lay", [folder, archive])
def test_cifar10_pixels_and_labels(tmp_path: Path, place: str, lay) -> None:
    dataset = pack(Cifar(lay(tmp_path, cifar10())), place)
    assert dataset.classes == ("cat", "dog", "frog")
    assert (dataset.samples("train"), dataset.samples("val")) == (20, 5)
    labels, pixels = records(5, 1)
    for key, (data, label) in contents(dataset, "val").items():
        i = int(key.removeprefix("val-"))
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(np.asarray(image), pixels[i].transpose(1, 2, 0))
        assert label == labels[i, 0]


def test_cifar100_takes_the_fine_label(tmp_path: Path, place: str) -> None:
    files = {"train.bin": binary(6, 2), "test.bin": binary(4, 2), "fine_label_names.txt": b"a b c"}
    dataset = pack(Cifar(folder(tmp_path, files)), place)
    labels, _ = records(4, 2)
    found = contents(dataset, "val")
    assert [found[f"val-{i:05d}"][1] for i in range(4)] == labels[:, 1].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("test_batch.bin"), "lacks test_batch.bin"),
        (
            lambda f: f.update({"data_batch_3.bin": binary(4, 1)[:-1]}),
            "data_batch_3.bin .* incomplete",
        ),
        (lambda f: f.pop("batches.meta.txt"), "not CIFAR's binary version"),
    ],
)
def test_odd_cifar_is_explained(tmp_path: Path, change, message: str) -> None:
    files = cifar10()
    change(files)
    with pytest.raises(BadSource, match=message):
        Cifar(folder(tmp_path, files))


def test_pickled_cifar_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="unpickling runs code"):
        Cifar(folder(tmp_path, {"data_batch_1": b"\x80\x02", "batches.meta": b"\x80"}))


def test_torn_archive_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path, cifar10())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BadSource, match=r"cifar\.tar\.gz does not unpack"):
        Cifar(path)


CLASSES = ("n01440764", "n01443537", "n02102040")


def imagenet(root: Path) -> dict[str, Any]:
    """Three classes of four images, a PNG among them; six validation images."""
    root.mkdir(exist_ok=True)
    inner = []
    for c, name in enumerate(reversed(CLASSES)):  # the official tar is not sorted either
        images = [
            (f"{name}_{i}.JPEG", encoded(gradient(8 + i, 8 + c), "PNG" if c + i == 5 else "JPEG"))
            for i in range(4)
        ]
        inner.append((f"{name}.tar", tar(*images)))
    val = [(f"ILSVRC2012_val_{i:08d}.JPEG", encoded(gradient(8, 9 + i), "JPEG")) for i in range(6)]
    paths = {
        "train_tar": root / "train.tar",
        "val_tar": root / "val.tar",
        "val_labels": root / "v.txt",
    }
    paths["train_tar"].write_bytes(tar(*inner))
    paths["val_tar"].write_bytes(tar(*reversed(val)))
    paths["val_labels"].write_text("\n".join(CLASSES[i % 3] for i in range(6)))
    return paths


def test_imagenet_is_read_through_its_tars(tmp_path: Path, place: str) -> None:
    dataset = pack(ImageNet(**imagenet(tmp_path / "in")), place)
    assert dataset.classes == CLASSES
    train, val = contents(dataset, "train"), contents(dataset, "val")
    assert len(train) == 12
    assert all(dataset.classes[label] == key.partition("/")[0] for key, (_, label) in train.items())
    with Image.open(io.BytesIO(train["n01443537/n01443537_2"][0])) as image:
        assert image.size == (10, 9)
    assert [val[f"ILSVRC2012_val_{i:08d}"][1] for i in range(6)] == [0, 1, 2, 0, 1, 2]
    assert dataset.left_out == ()


def test_imagenet_is_read_by_another_process(tmp_path: Path) -> None:
    source = ImageNet(**imagenet(tmp_path / "in"))
    source.read("train", 0)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.identity() == source.identity()
    assert [copy.read("train", i) for i in range(12)] == [
        source.read("train", i) for i in range(12)
    ]
    (tmp_path / "in" / "train.tar").rename(tmp_path / "in" / "elsewhere.tar")
    with pytest.raises(BadSource, match=r"train\.tar is not there on node"):
        pickle.loads(pickle.dumps(source)).require_here()


def test_imagenet_takes_kaggles_labels(tmp_path: Path, place: str) -> None:
    paths = imagenet(tmp_path / "in")
    lines = [f"ILSVRC2012_val_{i:08d},{CLASSES[2]} 1 2 3 4 {CLASSES[2]} 5 6 7 8" for i in range(6)]
    paths["val_labels"].write_text("ImageId,PredictionString\n" + "\n".join(lines))
    dataset = pack(ImageNet(**paths), place)
    assert {label for _, label in contents(dataset, "val").values()} == {2}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("val_labels", b"n01440764\n", "has 1 labels, the tar 6 files"),
        ("val_labels", b"n09999999\n" * 6, "has classes that train lacks: n09999999"),
        ("train_tar", tar(("readme.txt", b"x")), r"no tar of a class .* but 'readme\.txt'"),
        ("train_tar", b"x" * 600, r"train\.tar: no tar header at byte 0"),
        ("val_tar", tar(("a.JPEG", b"x" * 600))[:700], r"val\.tar: torn"),
    ],
)
def test_odd_imagenet_is_explained(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    paths = imagenet(tmp_path / "in")
    paths[name].write_bytes(data)
    with pytest.raises(BadSource, match=message):
        ImageNet(**paths)


def test_a_missing_tar_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="is not there"):
        ImageNet(tmp_path / "train.tar", tmp_path / "val.tar", tmp_path / "labels.txt")
