"""Features of committed weights and the regression on them, in this process."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from pipelines.campaigns.studies import few_shot as module
from pipelines.campaigns.studies.few_shot import measure, result_key
from pipelines.campaigns.studies.study import FewShotTask
from pipelines.evaluation.fewshot import drawn, few_shot
from pipelines.lineage.source import Source, committed_source
from pipelines.recipes.digits import PRETRAIN
from pipelines.recipes.fingerprint import plain
from pipelines.recipes.stage import Stage
from pipelines.recipes.streams import val_spec
from storage import weights
from storage.blocks import eval_batches
from storage.dataset import Dataset, load_dataset
from storage.index import load_index
from storage.objects import open_store
from storage.pack import pack
from storage.pack.digits import Digits
from storage.reader import read_samples
from storage.selection import Selection
from vit import BiTConfig, build_model, normalize

BIT = BiTConfig(image_size=16, blocks=(1, 1), num_classes=7)


def committed(stage: Stage, folder: Path) -> Source:
    model = build_model(stage.model, seed=3)
    weights.commit(str(folder), model.state_dict(), {"stage": plain(asdict(stage))})
    return committed_source(str(folder))


def every_feature(stage: Stage, uri: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of a whole split of ten classes, by the path that training takes."""
    data = replace(stage.data, val_split=split, selection=Selection())
    whole = replace(stage, data=data, global_batch=64)
    model = build_model(stage.model, seed=3)
    found, labels = [], []
    with torch.no_grad():
        for batch in eval_batches(val_spec(whole, uri)):
            images = normalize(torch.from_numpy(batch["image"]))
            tokens = model.forward_features(images)
            found.append(model.forward_head(tokens, pre_logits=True).numpy())
            labels.append(batch["label"])
    kept = np.concatenate(labels) >= 0  # padding
    return np.concatenate(found)[kept], np.concatenate(labels)[kept]


@pytest.mark.parametrize("stage", [PRETRAIN, replace(PRETRAIN, model=BIT)], ids=["vit", "bit"])
def test_few_images_read_give_what_all_features_would(
    stage: Stage, local_data: str, tmp_path: Path
) -> None:
    dataset = load_dataset(f"{local_data}/digits")
    task = FewShotTask(dataset="digits", shots=(1, 5), seeds=(0, 1))
    found = measure(committed(stage, tmp_path / "w"), dataset.uri, dataset.digest, task)
    train, train_labels = every_feature(stage, dataset.uri, "train")
    test, test_labels = every_feature(stage, dataset.uri, "val")
    expected = few_shot(
        train, train_labels, test, test_labels, num_classes=10, shots=(1, 5), seeds=(0, 1)
    )
    assert found.pop("few_shot/left_out") == 0
    assert found == pytest.approx(dict(expected.metrics()), abs=2 / len(test))  # a tie or two
    assert found["few_shot/5"] > 0.2  # ten classes: random features know something


def test_part_of_the_test_split_is_drawn(local_data: str, tmp_path: Path) -> None:
    dataset = load_dataset(f"{local_data}/digits")
    source = committed(PRETRAIN, tmp_path / "w")
    task = FewShotTask(dataset="digits", shots=(1,), seeds=(0,), test_samples=50)
    accuracy = measure(source, dataset.uri, dataset.digest, task)["few_shot/1"]
    assert accuracy * 50 == pytest.approx(round(accuracy * 50))


@pytest.mark.parametrize("in_a_task", [False, True])
def test_without_a_gpu_from_ray_a_network_stays_on_the_cpu_in_float32(
    in_a_task: bool,
    local_data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    may_round: Callable[[], tuple[bool, bool]],
) -> None:
    """On a machine with GPUs, all tasks would share one, and its convolutions round to TF32."""
    dataset = load_dataset(f"{local_data}/digits")
    task = FewShotTask(dataset="digits", shots=(1,), seeds=(0,), test_samples=10)
    seen: set[tuple[str, tuple[bool, bool]]] = set()

    def features(model: torch.nn.Module, *rest: Any) -> Any:
        seen.add((next(model.parameters()).device.type, may_round()))
        return original(model, *rest)

    original: Any = module.features
    monkeypatch.setattr(module, "features", features)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ray, "is_initialized", lambda: in_a_task)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [])
    measure(committed(PRETRAIN, tmp_path / "w"), dataset.uri, dataset.digest, task)
    assert seen == {("cpu", (False, False))}


def damage(dataset: Dataset, split: str, positions: list[int]) -> None:
    """Overwrite the images at some positions of a split by zeros."""
    index = load_index(dataset, split)
    for raw in read_samples(open_store(dataset.uri), index, np.array(positions)):
        shard = Path(dataset.uri) / raw.shard
        content = shard.read_bytes()
        assert content.count(raw.data) == 1
        shard.write_bytes(content.replace(raw.data, bytes(len(raw.data))))


def test_damaged_images_are_left_out_and_others_drawn(tmp_path: Path) -> None:
    pack(Digits(), str(tmp_path / "digits"))
    dataset = load_dataset(str(tmp_path / "digits"))
    source = committed(PRETRAIN, tmp_path / "w")
    task = FewShotTask(dataset="digits", shots=(1,), seeds=(0,))
    before = measure(source, dataset.uri, dataset.digest, task)
    labels = np.asarray(load_index(dataset, "train").labels)
    chosen = drawn(labels, np.arange(len(labels)), 0).first(1)
    tested = len(load_index(dataset, "val"))
    damage(dataset, "train", chosen[:3].tolist())
    damage(dataset, "val", [0, 5])
    after = measure(source, dataset.uri, dataset.digest, task)
    assert before["few_shot/left_out"] == 0
    assert after["few_shot/left_out"] == 5
    usable = np.setdiff1d(np.arange(len(labels)), chosen[:3])
    train, train_labels = every_feature(PRETRAIN, dataset.uri, "train")  # black where damaged
    test, test_labels = every_feature(PRETRAIN, dataset.uri, "val")
    expected = few_shot(
        train[np.isin(np.arange(len(train)), usable)] if len(train) == len(labels) else train,
        train_labels[usable] if len(train) == len(labels) else train_labels,
        test,
        test_labels,
        num_classes=10,
        train_index=usable,
        shots=(1,),
        seeds=(0,),
    ).metrics()
    assert len(test) == tested - 2
    assert after["few_shot/1"] == pytest.approx(dict(expected)["few_shot/1"], abs=2 / tested)


def test_a_result_belongs_to_the_weights_not_to_their_folder(tmp_path: Path) -> None:
    task = FewShotTask(dataset="digits")
    first = committed(PRETRAIN, tmp_path / "a" / "w")
    other = str(tmp_path / "b" / "w")
    model = build_model(PRETRAIN.model, seed=4)
    weights.commit(other, model.state_dict(), {"stage": plain(asdict(PRETRAIN))})
    assert result_key(first, task, "d") != result_key(committed_source(other), task, "d")
    same = committed(PRETRAIN, tmp_path / "c" / "w")
    assert result_key(first, task, "d") == result_key(same, task, "d")
