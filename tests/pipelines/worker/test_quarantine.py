"""Damaged samples in a real run: replaced, named and counted, until there are too many."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from storage import weights
from storage.dataset import load_dataset
from storage.index import load_index
from storage.pack import pack
from storage.pack.digits import Digits
from tests.pipelines.conftest import Said

TINY = [
    *("--stage.steps", "90", "--stage.global-batch", "16", "--stage.model.depth", "1"),
    *("--stage.eval-every-steps", "0", "--place.log-every-steps", "40"),
]


DAMAGED = {"train": [3, 70, 100], "val": [5]}  # which of the zeros


@pytest.fixture
def damaged(tmp_path: Path) -> str:
    """The digits; three samples of train and one of val, of classes trained on, do not read."""
    dataset = pack(Digits(), str(tmp_path / "data" / "digits"))
    for split, places in DAMAGED.items():
        index = load_index(dataset, split)
        positions = np.flatnonzero(index.labels == 0)[places]
        path = Path(dataset.uri) / f"{split}-000000.tar"
        data = bytearray(path.read_bytes())
        for position in positions:
            data[int(index.rows["offset"][position])] ^= 1
        path.write_bytes(data)
    return str(tmp_path / "data")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_damaged_samples_are_named_and_counted_until_they_are_too_many(
    command: Callable[..., Said], place: list[str], damaged: str, tmp_path: Path
) -> None:
    """90 steps of 16 see each sample once; two of them more than once."""
    place = [*place, "--place.data-root", damaged]
    said = command("pretrain", *place, *TINY, "--place.max-bad-fraction", "0.01")
    assert said.code == 0, said.err
    (folder,) = (tmp_path / "runs" / "digits" / "pretrain").iterdir()
    records = json.loads((folder / "quarantine.json").read_bytes())
    assert sorted(record["split"] for record in records) == ["train"] * 3 + ["val"]
    assert all(record["key"].startswith("digit-") for record in records)
    assert said.out.count("checksum: the shard changed after packing") == 4
    manifest = weights.read_manifest(str(folder))
    assert manifest is not None
    index = load_index(load_dataset(f"{damaged}/digits"), "val")
    assert manifest["metrics"]["val/samples"] == (index.labels < 7).sum() - 1  # 0..6 are trained
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = manifest["mlflow_run_id"]
    assert client.get_metric_history(run_id, "train/quarantined")[-1].value == 3
    assert client.get_metric_history(run_id, "val/quarantined")[-1].value == 1
    assert "quarantine.json" in {item.path for item in client.list_artifacts(run_id)}
    read = client.get_metric_history(run_id, "train/read_mebibytes")
    assert sum(metric.value for metric in read) > 0.3  # of 1,440 images of 8 px
    assert sum(m.value for m in client.get_metric_history(run_id, "train/read_requests")) > 90

    said = command("pretrain", *place, *TINY, "--force", "--place.max-bad-fraction", "0")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "of 999 samples of" in said.err
    assert "more than max_bad_fraction 0 allows, the first 'digit-" in said.err
    assert said.out.count("fresh weights") == 1  # no restart would mend it
