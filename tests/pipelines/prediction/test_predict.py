"""`pipelines/predict.py` as a user calls it: a few files, in this process."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

import vit
from pipelines.prediction.command import main
from pipelines.prediction.output import CsvOutput, TableOutput
from pipelines.recipes.data import Data
from storage.decode import decode
from tests.pipelines.conftest import Said
from tests.pipelines.support.photographs import CHINA, FLOWER, STAGE, Photos

Predict = Callable[..., Said]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A prediction computes with one thread, in this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def predict(called: Callable[..., Said], photos: Photos) -> Predict:
    def call(*arguments: str) -> Said:
        return called(main, "predict", *photos.place(), "--run", "photos", *arguments)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs, and a text between them."""
    (tmp_path / "in").mkdir()
    for name, data in (("a.jpg", CHINA), ("b.jpg", b"a text"), ("c.jpg", FLOWER)):
        (tmp_path / "in" / name).write_bytes(data)
    return tmp_path / "in"


def network(photos: Photos, data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [C] and features [D] of the average."""
    model = vit.build_model(STAGE.model)
    model.load_state_dict(photos.average)
    pixels = decode(data, STAGE.data.val_crop(224), seed=0, epoch=0, index=0)
    with torch.no_grad():
        tokens = model.eval().forward_features(vit.normalize(torch.tensor(pixels[None])))
        features = model.forward_head(tokens, pre_logits=True)
        return model.head(features)[0].double().softmax(0), features[0]


def test_csv_has_classes_probabilities_and_reasons(
    predict: Predict, photos: Photos, folder: Path
) -> None:
    said = predict(str(folder), "--top", "2")
    assert said.code == 0, said.err
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [row["file"] for row in rows] == [
        str(folder / name) for name in ("a.jpg", "b.jpg", "c.jpg")
    ]
    for row, data in ((rows[0], CHINA), (rows[2], FLOWER)):
        wanted, _ = network(photos, data)
        order = wanted.argsort(descending=True).tolist()
        assert [row["class"], row["class_2"]] == [("china", "flower")[i] for i in order]
        found = float(row["probability"]), float(row["probability_2"])
        assert found == pytest.approx(wanted[order].tolist(), abs=1e-6)
        assert row["error"] == ""
    assert rows[1]["class"] == rows[1]["probability"] == ""
    assert "a text" in rows[1]["error"]
    assert "1 could not be used" in said.err
    assert "img/s" in said.err


def test_parquet_has_features_and_is_not_written_twice(
    predict: Predict, photos: Photos, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = (str(folder), "--features", "--batch", "1", "--out", str(out))
    for name in "defg":  # seven images in pieces of four
        (folder / f"{name}.jpg").write_bytes(CHINA)
    said = predict(*options)
    assert said.code == 0, said.err
    assert said.out == ""
    table = pyarrow.parquet.read_table(out).to_pylist()
    assert [Path(row["file"]).stem for row in table] == list("abcdefg")
    assert table[1]["features"] is None
    assert table[1]["class"] is None
    for row, data in ((table[0], CHINA), (table[2], FLOWER)):
        np.testing.assert_allclose(row["features"], network(photos, data)[1], atol=1e-5)
    names = {path.name for path in out.iterdir()}
    parts = {"part-000000.parquet", "part-000001.parquet"}
    assert names == parts | {"_predictions.json", "_SUCCESS"}

    first = (out / "part-000000.parquet").read_bytes()
    (out / "part-000000.parquet").unlink()
    (out / "part-000001.parquet").write_bytes(b"kept")
    assert predict(*options).code == 0
    assert (out / "part-000000.parquet").read_bytes() == first
    assert (out / "part-000001.parquet").read_bytes() == b"kept"


def test_a_csv_file_has_the_rows_of_stdout(predict: Predict, folder: Path, tmp_path: Path) -> None:
    for name in "defg":  # seven images in pieces of four
        (folder / f"{name}.jpg").write_bytes(CHINA)
    options = (str(folder), "--batch", "1", "--top", "2")
    shown = predict(*options).out
    out = tmp_path / "new" / "out.csv"
    said = predict(*options, "--out", str(out))
    assert (said.code, said.out) == (0, ""), said.err
    assert out.read_text() == shown
    assert len(shown.splitlines()) == 8
    assert list(out.parent.iterdir()) == [out]

    again = predict(*options, "--out", str(out))  # never replaced
    assert again.code == 2
    assert str(out) in again.err
    assert out.read_text() == shown


def test_a_parquet_file_goes_on_from_its_parts(
    predict: Predict, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "defg":
        (folder / f"{name}.jpg").write_bytes(CHINA)
    out = tmp_path / "out.parquet"
    options = (str(folder), "--features", "--batch", "1")
    with monkeypatch.context() as broken:

        def stop(*arguments: object) -> None:
            raise KeyboardInterrupt

        broken.setattr("pipelines.prediction.command.join_parts", stop)
        assert predict(*options, "--out", str(out)).code != 0
    assert not out.exists()
    said = predict(*options, "--out", str(out))
    assert "2 of 2 parts are there already" in said.err
    assert list(tmp_path.glob("out*")) == [out]
    whole = tmp_path / "whole"
    assert predict(*options, "--out", str(whole)).code == 0
    read = pyarrow.parquet.read_table
    assert out.is_file()
    assert read(out).equals(read(whole))
    assert read(out).num_rows == 7


@pytest.mark.parametrize(
    ("other", "differs"),
    [(("--top", "2"), "top"), (("--average", "live"), "weights"), ((), "images")],
)
def test_parts_of_another_prediction_are_not_mixed(
    other: tuple[str, ...], differs: str, predict: Predict, folder: Path, tmp_path: Path
) -> None:
    out = ("--out", str(tmp_path / "out"))
    assert predict(str(folder), *out).code == 0
    if not other:
        (folder / "d.jpg").write_bytes(CHINA)
    said = predict(str(folder), *other, *out)
    assert said.code == 2
    assert f"command: {differs} differ" in said.err
    plan = json.loads((tmp_path / "out" / "_predictions.json").read_text())
    assert plan["top"] == 1


def test_the_output_must_be_a_folder_of_its_own(
    predict: Predict, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file.parquet").write_text("mine")
    for out in (tmp_path / "file.parquet", folder):
        said = predict(str(folder), "--out", str(out))
        assert said.code == 2
        assert str(out) in said.err
    assert (tmp_path / "file.parquet").read_text() == "mine"
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("nowhere.jpg",), "nowhere.jpg"),
        ((), "no images given"),
        (("{folder}", "--features"), "--out FILE.parquet"),
        (("{folder}", "--features", "--out", "{folder}/new.csv"), "--out FILE.parquet"),
        (("{folder}", "--out", "{folder}/new.xlsx"), "FILE.csv"),
        (("{folder}", "--out", "s3://bucket/new.csv"), "local FILE.csv"),
        (("{folder}", "--top", "3"), "2 classes"),
        (("{folder}", "--top", "0"), "--top"),
        (("{folder}", "--force"), "--force"),
        (("{folder}", "--run", "elsewhere"), "elsewhere"),
        (("{folder}", "--class-names", "nowhere.txt"), "nowhere.txt"),
        (("{folder}", "--out", "ftp://host/x"), "ftp"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    arguments: tuple[str, ...], found: str, predict: Predict, folder: Path
) -> None:
    said = predict(*(argument.format(folder=folder) for argument in arguments))
    assert said.code == 2
    assert found in said.err.splitlines()[-1]
    assert said.out == ""
    assert "Traceback" not in said.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_was_asked_for_is_not_replaced_by_the_cpu(
    predict: Predict, folder: Path
) -> None:
    said = predict(str(folder), "--place.workers.gpus", "1")
    assert (said.code, said.out) == (2, "")
    assert "--place.workers.gpus 0" in said.err


def test_without_the_dataset_classes_are_numbers(
    predict: Predict, folder: Path, tmp_path: Path
) -> None:
    said = predict(str(folder / "a.jpg"), "--place.data-root", str(tmp_path / "nowhere"))
    assert said.code == 0
    assert "--class-names" in said.err
    (row,) = csv.DictReader(io.StringIO(said.out))
    assert row["class"] in ("0", "1")


def test_a_public_checkpoint_that_fits_no_stage_comes_in_its_own_model(
    predict: Predict, folder: Path, tmp_path: Path
) -> None:
    config = vit.ViTConfig(
        image_size=32, patch_size=8, width=48, depth=2, heads=3, mlp_dim=96, num_classes=5
    )
    model = vit.build_model(config, seed=1)
    head = model.get_submodule("head")
    assert isinstance(head, torch.nn.Linear)
    torch.nn.init.normal_(head.weight, generator=torch.manual_seed(1))
    crop = vit.Preprocessing(crop_fraction=32 / 45)
    vit.export_timm(model.state_dict(), config, tmp_path / "public", preprocessing=crop)
    said = predict(str(folder / "a.jpg"), "--weights", str(tmp_path / "public"))
    assert said.code == 0, said.err
    (row,) = csv.DictReader(io.StringIO(said.out))
    pixels = decode(CHINA, Data(eval_fraction=32 / 45).val_crop(32), seed=0, epoch=0, index=0)
    with torch.no_grad():
        wanted = model.eval()(vit.normalize(torch.tensor(pixels[None])))[0].double().softmax(0)
    assert row["class"] == str(int(wanted.argmax()))
    assert float(row["probability"]) == pytest.approx(float(wanted.max()), abs=1e-6)
    assert "crop center 0.7111 (config.json)" in said.err
    assert "--class-names" in said.err

    names = ("ant", "bee", "cat", "dog", "eel")  # which its files may say
    vit.export_timm(
        model.state_dict(), config, tmp_path / "named", preprocessing=crop, class_names=names
    )
    said = predict(str(folder / "a.jpg"), "--weights", str(tmp_path / "named"))
    (row,) = csv.DictReader(io.StringIO(said.out))
    assert row["class"] == names[int(wanted.argmax())]
    assert "--class-names" not in said.err


def test_a_terminal_gets_a_table_and_brackets_are_text() -> None:
    columns: dict[str, list[Any]] = {
        "file": ["a[red].jpg", "b.jpg"],
        "class": ["cat", None],
        "probability": [0.75, None],
        "class_2": ["dog", None],
        "probability_2": [0.25, None],
        "error": [None, "broken"],
    }
    table, text = io.StringIO(), io.StringIO()
    for output in (TableOutput(table), CsvOutput(text)):
        output.add(columns)
        output.end()
    lines = table.getvalue().splitlines()
    assert any("a[red].jpg" in line and "cat" in line and "0.7500" in line for line in lines)
    assert any("dog" in line and "0.2500" in line for line in lines)
    assert any("b.jpg" in line and "broken" in line for line in lines)
    assert text.getvalue().splitlines()[2] == "b.jpg,,,,,broken"
    assert math.isclose(float(text.getvalue().splitlines()[1].split(",")[2]), 0.75)
