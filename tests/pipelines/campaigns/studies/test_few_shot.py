"""Features of committed weights and the regression on them, in this process."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.campaigns.studies.few_shot import measure
from pipelines.campaigns.studies.study import FewShotTask
from pipelines.evaluation.fewshot import few_shot
from pipelines.recipes.digits import PRETRAIN
from pipelines.recipes.stage import Stage, plain
from pipelines.recipes.streams import val_spec
from storage import weights
from storage.dataset import load_dataset
from storage.selection import Selection
from storage.stream import eval_batches
from vit import BiTConfig, build_model, normalize

BIT = BiTConfig(image_size=16, blocks=(1, 1), num_classes=7)


def committed(stage: Stage, folder: Path) -> str:
    model = build_model(stage.model, seed=3)
    weights.commit(str(folder), model.state_dict(), {"stage": plain(asdict(stage))})
    return str(folder)


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
    assert found == pytest.approx(dict(expected.metrics()), abs=2 / len(test))  # a tie or two
    assert found["few_shot/5"] > 0.2  # ten classes: random features know something


def test_part_of_the_test_split_is_drawn(local_data: str, tmp_path: Path) -> None:
    dataset = load_dataset(f"{local_data}/digits")
    uri = committed(PRETRAIN, tmp_path / "w")
    task = FewShotTask(dataset="digits", shots=(1,), seeds=(0,), test_samples=50)
    accuracy = measure(uri, dataset.uri, dataset.digest, task)["few_shot/1"]
    assert accuracy * 50 == pytest.approx(round(accuracy * 50))
