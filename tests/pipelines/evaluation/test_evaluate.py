"""`pipelines/evaluate.py` as a user runs it: digits, weights that were never trained."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import save_file

import vit
from cluster.local.s3 import S3Server
from pipelines.evaluation import command as run
from pipelines.evaluation.answers import Answers, answer
from pipelines.evaluation.classification import calibration, top_k
from pipelines.evaluation.evaluation import STAGE
from pipelines.evaluation.fewshot import few_shot
from pipelines.evaluation.neighbours import knn
from pipelines.recipes.digits import FINETUNE
from pipelines.recipes.stage import Stage
from storage import weights
from storage.blocks import eval_batches
from storage.columns import StreamSpec
from storage.objects import open_store
from storage.uri import join
from tests.pipelines.conftest import Said
from tests.pipelines.support.checkpoint import commit_stage, random_weights

Evaluate = Callable[..., Said]
SMALL = replace(FINETUNE, model=replace(FINETUNE.model, image_size=16, depth=1), steps=70)


@pytest.fixture
def evaluate(called: Callable[..., Said], place: list[str]) -> Evaluate:
    """Call the script with everything inside the test's folder."""
    return partial(called, run.main, "evaluate", *place)


@pytest.fixture
def stage(tmp_path: Path, local_data: str) -> dict[str, Any]:
    """A committed fine-tuning stage in run `digits`, live weights and average."""
    return commit_stage(str(tmp_path / "runs"), SMALL, local_data, average=True)


def manifests(root: str | Path, run_name: str = "digits") -> dict[str, dict[str, Any]]:
    return dict(weights.committed(join(str(root), run_name, STAGE)))


def only(root: str | Path, run_name: str = "digits") -> tuple[str, dict[str, Any]]:
    ((name, manifest),) = manifests(root, run_name).items()
    return join(str(root), run_name, STAGE, name), manifest


def reference(
    stage: Stage, tensors: dict[str, torch.Tensor], data_root: str, split: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of `Answers` and features, computed in this process."""
    model = vit.build_model(stage.model)
    model.load_state_dict(tensors)
    spec = StreamSpec(
        dataset=f"{data_root}/digits",
        split=split,
        crop=stage.data.val_crop(stage.image_size),
        global_batch=100,
        tail="carry",
    )
    parts: list[dict[str, np.ndarray]] = []
    with torch.no_grad():
        for batch in eval_batches(spec):
            images = vit.normalize(torch.tensor(batch["image"]))
            features = model.eval().forward_head(model.forward_features(images), pre_logits=True)
            said = answer(model.head(features), torch.tensor(batch["label"]))
            parts.append({**said, "index": batch["index"], "features": features.numpy()})
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return whole, whole["features"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_numbers_are_the_same_on_any_number_of_workers_and_those_of_one_process(
    evaluate: Evaluate,
    ray_session: str,
    stage: dict[str, Any],
    tmp_path: Path,
    local_data: str,
) -> None:
    found: list[dict[str, float]] = []
    answers: list[bytes] = []
    for workers in ("1", "2", "3"):
        said = evaluate(
            *("--evaluators", "classification", "knn", "few-shot", "probe"),
            *("--weights", stage["uri"], "--run", f"w{workers}"),
            *("--place.workers.min", workers, "--place.workers.max", workers),
        )
        assert said.code == 0, said.err
        uri, manifest = only(tmp_path / "runs", f"w{workers}")
        found.append(manifest["metrics"])
        answers.append(open_store(uri).read("answers.npz"))
    assert found[0] == found[1] == found[2]  # to the last bit
    assert answers[0] == answers[1] == answers[2]

    ema = random_weights(SMALL, seed=2)
    test, test_features = reference(SMALL, ema, local_data, "val")
    train, train_features = reference(SMALL, ema, local_data, "train")
    wanted = dict(top_k(Answers.of(test), 10)) | dict(calibration(Answers.of(test)))
    arrays = train_features, train["label"], test_features, test["label"]
    wanted |= dict(knn(*arrays, num_classes=10))
    wanted |= dict(few_shot(*arrays, num_classes=10, train_index=train["index"]).metrics())
    for name, value in wanted.items():
        assert found[0][f"val/{name}"] == pytest.approx(value, abs=1e-5), name
    assert found[0]["val/samples"] == 377
    assert found[0]["val/few_shot/25"] > 0.3  # the features of random weights tell digits apart
    assert found[0]["val/probe"] > 0.5


@pytest.mark.timeout(600)
def test_an_evaluation_is_committed_with_its_lineage_and_logged_once(
    evaluate: Evaluate, ray_session: str, stage: dict[str, Any], tmp_path: Path, local_data: str
) -> None:
    labels = reference(SMALL, random_weights(SMALL, seed=2), local_data, "val")[0]
    real = tmp_path / "real.json"
    real.write_text(json.dumps([[int(label), int(label) ^ 1] for label in labels["label"]]))
    arguments = ("--real", str(real), "--place.workers.min", "1", "--place.workers.max", "1")
    said = evaluate(*arguments)
    assert said.code == 0, said.err
    assert "finetune" in said.out
    assert ", averaged on" in said.out

    uri, manifest = only(tmp_path / "runs")
    assert manifest["parent"]["fingerprint"] == stage["fingerprint"]
    assert manifest["parent"]["weights_sha256"] == stage["files"]["weights.safetensors"]["sha256"]
    assert manifest["weights"]["average"] == "ema"
    assert manifest["weights"]["sha256"] == stage["files"]["weights_ema.safetensors"]["sha256"]
    assert manifest["step"] == 70
    metrics = manifest["metrics"]
    assert metrics["val/accuracy"] == (labels["top"][:, 0] == labels["label"]).mean()
    assert metrics["val/real"] > metrics["val/accuracy"] > 0
    for name, promised in manifest["files"].items():
        data = open_store(uri).read(name)
        assert hashlib.sha256(data).hexdigest() == promised["sha256"], name
    for picture in ("confusion", "most-wrong"):
        with Image.open(tmp_path.joinpath(uri, f"pictures/{picture}.png")) as image:
            assert image.width > 300
    lines = Path(uri, "most-wrong.csv").read_text().splitlines()
    assert len(lines) == 65
    assert lines[0] == "position,shard,key,label,answer,confidence,loss"

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    logged = client.get_run(manifest["mlflow_run_id"])
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics == {name: pytest.approx(v) for name, v in metrics.items()}
    assert logged.data.params["crop.image_size"] == "16"
    assert logged.data.tags["vit.parent.fingerprint"] == stage["fingerprint"]
    files = {file.path for file in client.list_artifacts(logged.info.run_id, "pictures")}
    assert files == {"pictures/confusion.png", "pictures/most-wrong.png"}

    again = evaluate(*arguments)
    assert again.code == 0
    assert "committed already" in again.out
    assert len(manifests(tmp_path / "runs")) == 1
    assert evaluate(*arguments, "--force").code == 0
    assert list(manifests(tmp_path / "runs")) == [manifest["attempt"], f"{manifest['attempt']}-2"]
    assert evaluate(*arguments, "--average", "live").code == 0
    assert len(manifests(tmp_path / "runs")) == 3


@pytest.mark.timeout(600)
def test_a_public_checkpoint_is_measured_by_its_features_at_another_resolution_on_s3(
    evaluate: Evaluate, ray_session: str, s3_server: S3Server, s3_data: str, tmp_path: Path
) -> None:
    root = s3_server.uri("evaluations")
    save_file(random_weights(FINETUNE, seed=3), tmp_path / "public.safetensors")
    said = evaluate(
        *("--weights", str(tmp_path / "public.safetensors"), "--only", "finetune"),
        *("--init-image-size", "24", "--image-size", "16"),
        *("--evaluators", "few-shot", "--few-shot.shots", "1", "--few-shot.seeds", "5"),
        *("--classes", "3", "1", "8"),
        *("--place.workers.min", "1", "--place.workers.max", "1"),
        *("--place.data-root", s3_data, "--place.storage-root", root),
    )
    assert said.code == 0, said.err
    assert "pos_embed 6x6 -> 4x4" in said.out
    _, manifest = only(root)
    assert set(manifest["metrics"]) == {
        f"val/few_shot/1{suffix}" for suffix in ("", "_spread", "_seed_5")
    }
    assert manifest["metrics"]["val/few_shot/1"] > 1 / 3
    assert manifest["parent"] is None
    assert manifest["files"] == {}


def test_a_public_checkpoint_that_fits_no_stage_needs_a_dataset_of_its_classes(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    own = vit.ViTConfig(image_size=16, patch_size=4, width=24, depth=1, heads=2, mlp_dim=32)
    own = replace(own, num_classes=5)
    vit.export_timm(vit.build_model(own).state_dict(), own, tmp_path / "public")
    weights = ("--weights", str(tmp_path / "public"))
    said = evaluate(*weights)
    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert "--dataset NAME" in said.err
    said = evaluate(*weights, "--dataset", "digits")
    assert said.code == 2
    assert "has 5 classes, but the selected data" in said.err
