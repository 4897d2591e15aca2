"""`pipelines/pack.py` as a user calls it."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import packing
from tests.pipelines.conftest import Said


@pytest.fixture
def pack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["pipelines/pack.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            packing.main("test")
        said = capsys.readouterr()
        return Said(int(stop.value.code or 0), said.out, said.err)

    return call


def test_tars_of_others_are_indexed_in_place(
    pack: Callable[..., Said], local_data: str, tmp_path: Path
) -> None:
    for tar in (Path(local_data) / "digits").glob("*.tar"):
        shutil.copy(tar, tmp_path)
    said = pack("tar", "--out", str(tmp_path))
    assert said.code == 0, said.err
    assert "1420 train, 377 val, 10 classes" in said.out
    assert pack("verify", "--out", str(tmp_path)).code == 0


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["folder", "--folder", "nowhere", "--out", "x"], "nowhere"),
        (["idx", "--folder", "nowhere", "--out", "x"], "nowhere"),
        (["verify", "--out", "nowhere"], "nowhere"),
        (["cats"], "cats"),
        ([], "Expected one of {digits, idx,"),
    ],
)
def test_a_mistake_is_one_line(
    pack: Callable[..., Said], arguments: list[str], message: str
) -> None:
    said = pack(*arguments)
    assert said.code == 2
    (line,) = said.err.splitlines()
    assert message in line
