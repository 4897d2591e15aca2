"""`pipelines/pack.py` as a user calls it."""

import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tyro

from cluster.local.s3 import S3Server
from pipelines.packing import command as packing
from pipelines.packing import ray_tasks as packing_tasks
from storage.dataset import load_dataset
from storage.objects import open_store
from storage.pack_command import _BY_NAME, pack_command
from tests.pipelines.conftest import Said
from tests.storage.support.images import encoded, gradient
from tests.storage.test_pack_hf import good
from tests.storage.test_tar import tar


@pytest.fixture
def pack(called: Callable[..., Said]) -> Callable[..., Said]:
    return partial(called, packing.main, "pack")


def test_tars_of_others_are_indexed_in_place(
    pack: Callable[..., Said], local_data: str, tmp_path: Path
) -> None:
    for path in (Path(local_data) / "digits").glob("*.tar"):
        shutil.copy(path, tmp_path)
    said = pack("tar", "--out", str(tmp_path))
    assert said.code == 0, said.err
    assert "1420 train, 377 val, 10 classes" in said.out
    assert pack("verify", "--out", str(tmp_path)).code == 0


def test_packed_datasets_are_mixed(
    pack: Callable[..., Said], local_data: str, tmp_path: Path
) -> None:
    (tmp_path / "images" / "3").mkdir(parents=True)
    for number in range(20):
        image = np.roll(gradient(12, 12), number, axis=0)
        (tmp_path / "images" / "3" / f"{number}.png").write_bytes(encoded(image, "PNG"))
    own, out = str(tmp_path / "own"), str(tmp_path / "both")
    assert pack("folder", "--folder", str(tmp_path / "images"), "--out", own).code == 0
    said = pack("mix", "--of", f"{local_data}/digits", own, "--out", out)
    assert said.code == 0, said.err
    train = 1420 + load_dataset(own).samples("train")
    assert f"{train} train" in said.out
    assert "10 classes" in said.out
    assert pack("verify", "--out", out).code == 0
    alone = pack("mix", "--of", own, "--out", out)
    assert alone.code == 2
    assert "at least two" in alone.err


@pytest.mark.parametrize("name", [*_BY_NAME, "photos"])
def test_the_command_that_a_missing_dataset_names_is_one(name: str) -> None:
    script, *arguments = shlex.split(pack_command(f"data/{name}"))
    assert script == "pipelines/pack.py"
    command = tyro.cli(packing.Command, args=arguments)  # type: ignore[arg-type]  a union
    assert command.out == f"data/{name}"


def test_packing_on_ray_gives_the_same_dataset(
    pack: Callable[..., Said], ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = pack("digits", "--out", str(tmp_path / "here"), "--shard-mebibytes", "1")
    monkeypatch.setattr(packing_tasks, "WORTH_RAY_BYTES", 0)
    there = pack("digits", "--out", str(tmp_path / "there"), "--shard-mebibytes", "1", "--verify")
    assert there.code == 0, there.err
    assert "4 shards match the manifest" in there.out
    files = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    assert here.out.rpartition(":")[2] in there.out


def test_resizing_on_ray_gives_the_same_dataset(
    pack: Callable[..., Said], ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 200, 300, 3), dtype=np.uint8)
    for i in range(24):
        path = tmp_path / "in" / ("train" if i < 20 else "val") / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise[i], "JPEG", quality=95))
    options = ("--shard-mebibytes", "1", "--shorter-side", "180", "--quality", "95")
    source = ("folder", "--folder", str(tmp_path / "in"))
    here = pack(*source, "--out", str(tmp_path / "here"), *options)
    assert "note: 24 x resized to a shorter side of 180 px" in here.out
    monkeypatch.setattr(packing_tasks, "WORTH_RAY_BYTES", 0)
    there = pack(*source, "--out", str(tmp_path / "there"), *options, "--verify")
    assert there.code == 0, there.err
    assert "3 shards match the manifest" in there.out
    files = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}


def test_tars_of_others_are_packed_again_smaller(
    pack: Callable[..., Said], local_data: str, tmp_path: Path
) -> None:
    for path in (Path(local_data) / "digits").glob("*.tar"):
        shutil.copy(path, tmp_path)
    small = str(tmp_path / "small")
    said = pack("tar", "--out", str(tmp_path), "--shorter-side", "4", "--resized-to", small)
    assert said.code == 0, said.err
    assert f"{small}: 1420 train, 377 val, 10 classes" in said.out
    assert "1797 x resized to a shorter side of 4 px" in said.out
    assert pack("verify", "--out", small).code == 0
    for half in (("--shorter-side", "4"), ("--resized-to", small)):
        said = pack("tar", "--out", str(tmp_path), *half)
        assert said.code == 2
        assert "say both --shorter-side PIXELS and --resized-to PLACE" in said.err


def test_packing_and_indexing_on_ray_reach_s3(
    pack: Callable[..., Said],
    ray_session: str,
    s3_server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing_tasks, "WORTH_RAY_BYTES", 0)
    uri = s3_server.uri("packed-on-ray", tmp_path.name)
    with s3_server.environment():
        said = pack("digits", "--out", uri, "--shard-mebibytes", "1", "--verify")
        assert said.code == 0, said.err
        open_store(uri).delete("dataset.json")
        indexed = pack("tar", "--out", uri, "--verify")
    assert indexed.code == 0, indexed.err
    assert said.out.rpartition(":")[2] in indexed.out  # counts, classes, digest


def test_hugging_face_parquet_is_packed(pack: Callable[..., Said], tmp_path: Path) -> None:
    good(tmp_path / "in/data/train-00000-of-00001.parquet", 0, 9)
    good(tmp_path / "in/data/validation-00000-of-00001.parquet", 0, 6)
    said = pack("hf", "--folder", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--verify")
    assert said.code == 0, said.err
    assert "9 train, 6 val, 3 classes" in said.out


def test_much_that_is_left_out_is_summed_up(pack: Callable[..., Said], tmp_path: Path) -> None:
    from PIL import Image

    for half in ("train", "val"):
        folder = tmp_path / "in" / half / "a"
        folder.mkdir(parents=True)
        Image.new("L", (4, 4)).save(folder / "a.png")
        for i in range(15):
            (folder / f"{i}.txt").write_bytes(b"")
    said = pack("folder", "--folder", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert said.code == 0, said.err
    assert "left out 30 in all, named in " in said.out
    assert "  30 x not the name of an image file" in said.out
    lines = [line for line in said.out.splitlines() if not line.startswith("pack: ")]  # progress
    assert len(lines) == 1 + 1 + 20 + 2  # a note: one class only


def test_verify_names_the_damaged_sample(
    pack: Callable[..., Said], local_data: str, tmp_path: Path
) -> None:
    shutil.copytree(Path(local_data) / "digits", tmp_path / "digits")
    shard = tmp_path / "digits" / "val-000000.tar"
    data = bytearray(shard.read_bytes())
    data[1600] ^= 1  # in the first image
    shard.write_bytes(data)
    said = pack("verify", "--out", str(tmp_path / "digits"))
    assert said.code == 2
    assert "val-000000.tar" in said.err
    assert "digit-" in said.err


def test_a_folder_of_images_is_packed(pack: Callable[..., Said], tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for name, shade in (("cat", 40), ("dog", 200)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (20, 16), (shade, i, 0)).save(folder / f"{i}.jpg")
    said = pack("folder", "--folder", str(tmp_path / "images"), "--out", str(tmp_path / "packed"))
    assert said.code == 0, said.err
    assert "6 train, 6 val, 2 classes" in said.out


def test_what_was_done_to_images_is_said(pack: Callable[..., Said], tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            (folder / "._0.bmp").write_bytes(b"x")
            for i in range(3):
                Image.new("RGB", (20, 16), (i, 0, 0)).save(folder / f"{i}.bmp")
    place = ["--folder", str(tmp_path / "images"), "--out", str(tmp_path / "packed")]
    said = pack("folder", *place, "--max-pixels", "320", "--class-level", "1")
    assert said.code == 0, said.err
    assert "note: test/ is the validation split; --validation-fraction 0.1 would" in said.out
    assert "note: 4 x ._* ignored" in said.out
    assert "note: 12 x BMP stored as lossless PNG" in said.out
    held = pack("folder", *place, "--validation-fraction", "0.5", "--force")
    assert ", 6 test, 2 classes" in held.out


def test_tars_with_names_for_labels_are_indexed_elsewhere(
    pack: Callable[..., Said], tmp_path: Path
) -> None:
    jpeg = encoded(gradient(20, 16), "JPEG")
    entries = (("a.jpg", jpeg), ("a.kind", b"dog"), ("b.jpg", jpeg), ("b.kind", b"cat"))
    (tmp_path / "tars").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"tars/{split}-0.tar").write_bytes(tar(*entries))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    index = str(tmp_path / "index")
    said = pack(
        "tar", "--out", str(tmp_path / "tars"), "--index", index, "--label-key", "kind",
        "--classes", str(tmp_path / "classes.txt"), "--train", "train-{0..0}.tar",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "2 train, 2 val, 2 classes" in said.out
    assert "note: 4 x labels read from .kind" in said.out
    assert load_dataset(index).classes == ("cat", "dog")
    assert pack("verify", "--out", index).code == 0
    assert len(list((tmp_path / "tars").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tar", "--out", "x", "--classes", "nowhere"], "--classes nowhere cannot be read"),
        (["folder", "--folder", ".", "--out", "x", "--gray-bits", "3"], "--gray-bits 3: wanted 8"),
        (["folder", "--folder", "nowhere", "--out", "x"], "nowhere"),
        (["idx", "--folder", "nowhere", "--out", "x"], "nowhere"),
        (["verify", "--out", "nowhere"], "nowhere"),
        (["hf", "--folder", "nowhere", "--out", "x"], "nowhere"),
        (["digits", "--shard-mebibytes", "0"], "--shard-mebibytes: wanted at least 1, found 0"),
        (["cats"], "cats"),
        ([], "wanted one of digits, idx,"),
    ],
)
def test_a_mistake_is_one_line(
    pack: Callable[..., Said], arguments: list[str], message: str
) -> None:
    said = pack(*arguments)
    assert said.code == 2
    (line,) = said.err.splitlines()
    assert message in line
