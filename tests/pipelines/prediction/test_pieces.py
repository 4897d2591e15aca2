"""Reading and decoding a piece: what cannot be used is a row with a reason."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.prediction.listing import find, pieces_of
from pipelines.prediction.pieces import Samples, decode_piece
from storage.decode import Crop, decode
from tests.pipelines.support.photographs import CHINA, FLOWER, Photos

CROP = Crop(image_size=32, kind="resize")


def test_what_cannot_be_decoded_is_a_row_with_a_reason(tmp_path: Path) -> None:
    flower = Image.open(io.BytesIO(FLOWER)).resize((64, 48))
    flower.save(tmp_path / "e.bmp")
    (tmp_path / "a.jpg").write_bytes(CHINA)
    (tmp_path / "b.jpg").write_text("a text")
    (tmp_path / "c.jpg").write_bytes(CHINA[:20000])
    (tmp_path / "d.jpg").write_bytes(b"")
    (tmp_path / "f.jpg").write_bytes(CHINA)
    (piece,) = pieces_of(find([str(tmp_path)], split="val"), rows=9)
    (tmp_path / "f.jpg").unlink()  # between listing and reading
    pixels = decode_piece(piece, CROP)
    assert [Path(name).name for name in pixels.file] == [f"{c}.jpg" for c in "abcd"] + [
        "e.bmp",
        "f.jpg",
    ]
    assert [bool(error) for error in pixels.error] == [False, True, True, True, False, True]
    assert "b'a text'" in pixels.error[1]
    assert "truncated" in pixels.error[2]
    assert "f.jpg" in pixels.error[5]
    wanted = decode(CHINA, CROP, seed=0, epoch=0, index=0)
    assert (pixels.image[0] == wanted).all()
    assert (pixels.image[[1, 2, 3, 5]] == 0).all()
    near = np.asarray(flower.resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    assert abs(pixels.image[4] - near).max() <= 2  # as pack.py would store it


def test_a_damaged_sample_of_a_tar_is_a_row_with_its_name(photos: Photos) -> None:
    (piece,) = pieces_of(find([f"{photos.data_root}/photos"], split="val"), rows=9)
    assert isinstance(piece, Samples)
    rows = piece.rows.copy()
    rows["crc"][1] ^= 1
    pixels = decode_piece(replace(piece, rows=rows), CROP)
    assert [bool(error) for error in pixels.error] == [False, True, False, False, False]
    assert "checksum" in pixels.error[1]
    assert "val-000000.tar" in pixels.file[1]


def test_a_file_that_changed_is_another_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(CHINA)
    (before,) = pieces_of(find([str(path)], split="val"), rows=9)
    (same,) = pieces_of(find([str(path)], split="val"), rows=9)
    path.write_bytes(FLOWER)
    (after,) = pieces_of(find([str(path)], split="val"), rows=9)
    assert before.digest() == same.digest() != after.digest()
