"""Damaged samples in a real run: replaced, named and counted, until there are too many."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mlflow import MlflowClient

from pipelines.recipes.digits import PRETRAIN
from pipelines.worker import quarantine as quarantines
from pipelines.worker.quarantine import Quarantine
from storage import weights
from storage.columns import StreamSpec
from storage.dataset import load_dataset
from storage.index import load_index
from storage.objects import open_store
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


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[torch.device]:
    """A group of one process."""
    meeting = f"file://{tmp_path / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    yield torch.device("cpu")
    dist.destroy_process_group()


def quarantine(role: str, data: str, attempt: Path, *, split: str = "train") -> Quarantine:
    dataset = load_dataset(f"{data}/digits")
    crop = PRETRAIN.data.val_crop(PRETRAIN.image_size)
    spec = StreamSpec(dataset=dataset.uri, split=split, crop=crop, global_batch=8)
    return Quarantine(role, spec, dataset.digest, attempt_uri=str(attempt), limit=0.004)


def meet(found: Quarantine, positions: Iterable[int], device: torch.device) -> list[str]:
    found.add(np.array([*positions, -1]))
    return found.record(found.agree(device))


def test_a_restarted_group_counts_those_that_were_too_many_to_describe(
    damaged: str, tmp_path: Path, alone: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantines, "_NAMED", 3)
    before = quarantine("train", damaged, tmp_path / "attempt")
    assert len(meet(before, [1, 2], alone)) == 2
    assert len(meet(before, range(10, 17), alone)) == 1  # the third
    assert len(before) == 9
    restarted = quarantine("train", damaged, tmp_path / "attempt")
    assert len(restarted) == 9
    assert len(restarted.records) == 3
    assert before.too_many(1000) == restarted.too_many(1000) is not None
    assert meet(restarted, range(10, 17), alone) == []  # all known
    assert len(restarted) == 9


def test_training_and_evaluation_on_one_split_are_told_apart(
    damaged: str, tmp_path: Path, alone: torch.device
) -> None:
    """As in sweeps of a suite, which evaluate on a part of the training split."""
    train, val = (quarantine(role, damaged, tmp_path / "attempt") for role in ("train", "val"))
    meet(train, [1], alone)
    meet(val, [2], alone)
    meet(train, [3], alone)
    for role, positions in (("train", [1, 3]), ("val", [2])):
        again = quarantine(role, damaged, tmp_path / "attempt")
        assert sorted(record["position"] for record in again.records) == positions
        assert len(again) == len(positions)


def test_records_of_earlier_versions_count_for_their_split(damaged: str, tmp_path: Path) -> None:
    old = [{"split": "train", "position": 7, "shard": "s", "key": "k", "reason": "r"}]
    open_store(str(tmp_path / "attempt")).write("quarantine.json", json.dumps(old).encode())
    assert len(quarantine("train", damaged, tmp_path / "attempt")) == 1
    assert len(quarantine("val", damaged, tmp_path / "attempt", split="val")) == 0


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
