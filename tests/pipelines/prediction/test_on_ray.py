"""Predictions on Ray: of a dataset in a bucket, a tar and files, by two workers."""

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from cluster.local.s3 import S3Server
from pipelines.evaluation.command import main as evaluate
from pipelines.prediction.command import main as predict
from pipelines.recipes.digits import FINETUNE
from storage.objects import ObjectStore, open_store
from storage.uri import join
from tests.pipelines.conftest import Said
from tests.pipelines.prediction.test_listing import tar
from tests.pipelines.support.checkpoint import commit_stage
from tests.pipelines.support.photographs import CHINA

SMALL = replace(FINETUNE, model=replace(FINETUNE.model, image_size=16, depth=1), steps=70)
ONE, TWO = (
    ("--place.workers.min", count, "--place.workers.max", count, "--batch", "16")
    for count in ("1", "2")
)


def table(store: ObjectStore) -> pyarrow.Table:
    keys = sorted(key for key in store.list() if key.startswith("part-"))
    return pyarrow.concat_tables(
        pyarrow.parquet.read_table(io.BytesIO(store.read(key))) for key in keys
    )


@pytest.mark.timeout(600)
def test_predictions_are_the_answers_of_the_evaluation_and_go_on_after_a_stop(
    called: Callable[..., Said],
    place: list[str],
    ray_session: str,
    s3_server: S3Server,
    s3_data: str,
    local_data: str,
    tmp_path: Path,
) -> None:
    """Worker groups: only with several actors do order, parts and equal numbers mean anything."""
    commit_stage(str(tmp_path / "runs"), SMALL, local_data, average=True)
    assert called(evaluate, "evaluate", *place, *ONE).code == 0
    (answers,) = Path(tmp_path, "runs").glob("digits/evaluate/*/answers.npz")
    wanted = np.load(answers, allow_pickle=False)

    (tmp_path / "bad.jpg").write_text("a text")
    tar(tmp_path / "some.tar", {"1.jpg": CHINA, "1.cls": b"0"})
    dataset = f"{s3_data}/digits"
    sources = (dataset, str(tmp_path / "some.tar"), str(tmp_path / "bad.jpg"))
    out = join(s3_server.uri("predictions"), "digits.parquet")
    options = (*place, *sources, "--features", "--out", out)
    said = called(predict, "predict", *options, *TWO)
    assert said.code == 0, said.err

    store = open_store(out)
    found = table(store)
    assert found.num_rows == 377 + 2
    digits = found.slice(0, 377)
    assert digits["class"].to_pylist() == [str(label) for label in wanted["top"][:, 0]]
    assert digits["probability"].to_pylist() == wanted["confidence"].tolist()  # to the last bit
    share = np.mean([int(c) for c in digits["class"].to_pylist()] == wanted["label"])
    (metrics,) = Path(tmp_path, "runs").glob("digits/evaluate/*/per-class.csv")
    rows = list(csv.DictReader(metrics.read_text().splitlines()))
    images = [int(row["images"]) for row in rows]
    right = [float(row["accuracy"]) for row in rows]
    assert share == pytest.approx(np.average(right, weights=images))
    tail = found.slice(377).to_pylist()
    assert tail[0]["file"].endswith("some.tar/1.jpg")
    assert tail[0]["error"] is None
    assert "a text" in tail[1]["error"]
    assert len(tail[0]["features"]) == 96

    parts = sorted(key for key in store.list() if key.startswith("part-"))
    assert len(parts) == 6 + 2  # 377 in pieces of 4 batches of 16, the tar, the file
    first = {key: store.read(key) for key in parts}
    store.delete(parts[1])
    store.delete(parts[7])
    store.write(parts[2], b"kept")
    again = called(predict, "predict", *options, *ONE)
    assert again.code == 0, again.err
    for key in (parts[1], parts[7]):
        assert store.read(key) == first[key]
    assert store.read(parts[2]) == b"kept"

    torn = tmp_path / "torn.tar"
    torn.write_bytes((tmp_path / "some.tar").read_bytes()[:9000])
    said = called(predict, "predict", *place, *ONE, str(torn))
    assert said.code == 2
    assert "torn.tar" in said.err.splitlines()[-1]
