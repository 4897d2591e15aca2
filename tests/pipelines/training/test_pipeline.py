"""The whole pipeline as a user runs it, scaled down: data, weights and resume state on real S3."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cluster.local.s3 import S3Server
from pipelines.lineage.attempts import Attempt, committed_attempts
from pipelines.lineage.newest_state import newest_state
from pipelines.lineage.source import committed_source
from pipelines.recipes.stage import Stage
from storage import weights
from storage.objects import open_store
from storage.uri import join
from tests.pipelines.conftest import TINY, Said

Command = Callable[..., Said]
STAGES = ("pretrain", "upscale", "finetune")


def only(root: str, stage: str, run: str = "s3run") -> Attempt:
    (attempt,) = committed_attempts(root, run, stage)
    return attempt


@pytest.mark.timeout(600)
def test_three_stages_on_s3(
    command: Command,
    ray_session: str,
    s3_server: S3Server,
    s3_data: str,
    tmp_path: Path,
) -> None:
    """One long test: each part starts from what the one before left on the server."""
    root = s3_server.uri("runs")
    mlflow_uri = f"sqlite:///{tmp_path}/mlflow.db"
    arguments = [
        *("--run", "s3run"),
        *("--place.data-root", s3_data),
        *("--place.storage-root", root),
        *("--place.mlflow-uri", mlflow_uri),
        *("--place.save-every-steps", "2"),
        *("--place.log-every-steps", "2"),
        *("--finetune.train", "lora 2"),
    ]
    ran = command(None, *arguments, *TINY)
    assert ran.code == 0, ran.err
    assert "Browse the runs: mlflow ui --backend-store-uri" in ran.out
    assert s3_server.secret_key not in ran.out + ran.err

    attempts = {stage: only(root, stage) for stage in STAGES}
    check_lineage(attempts)
    check_adapters(attempts)
    check_mlflow(MlflowClient(mlflow_uri), attempts)
    for attempt in attempts.values():  # states were on the server while it trained, then dropped
        assert newest_state(attempt.uri) is None
        assert not list(open_store(join(attempt.uri, "resume")).list())

    again = command(None, *arguments, *TINY)
    assert again.code == 0
    assert again.out.count("committed already") == 3
    assert {stage: only(root, stage) for stage in STAGES} == attempts

    # One stage alone, changed: it reuses the weights that pretrain left.
    rerun = command(
        "upscale",
        *arguments[:-2],
        *("--stage.steps", "0", "--stage.optim.warmup-steps", "0", "--stage.model.depth", "1"),
        *("--stage.precision", "bfloat16"),
    )
    assert rerun.code == 0, rerun.err
    assert f"from pretrain {attempts['pretrain'].name}" in rerun.out
    changed = [
        attempt
        for attempt in committed_attempts(root, "s3run", "upscale")
        if attempt.name != attempts["upscale"].name
    ]
    assert len(changed) == 1
    before, _ = weights.read_weights(attempts["pretrain"].uri)
    after, _ = weights.read_weights(changed[0].uri)
    assert after["blocks.0.attn.qkv.weight"].equal(before["blocks.0.attn.qkv.weight"])
    assert before["pos_embed"].shape == (1, 1 + 4 * 4, 96)
    assert after["pos_embed"].shape == (1, 1 + 6 * 6, 96)
    assert changed[0].manifest is not None
    stage = Stage(name="upscale", model=changed[0].manifest.config())
    adapted, _ = committed_source(attempts["pretrain"].uri).start_weights(stage)
    for name, tensor in adapted.items():  # nothing was rounded to bfloat16 on the way
        assert after[name].equal(tensor), name


def check_adapters(attempts: dict[str, Attempt]) -> None:
    """Adapters are added to weights that are otherwise the parent's, and lie beside them."""
    before, _ = weights.read_weights(attempts["upscale"].uri)
    after, _ = weights.read_weights(attempts["finetune"].uri)
    adapters, _ = weights.read_weights(attempts["finetune"].uri, name="adapters")
    layer = "blocks.0.attn.qkv"
    product = adapters[f"{layer}.lora_b"] @ adapters[f"{layer}.lora_a"]
    assert product.any()
    assert after[f"{layer}.weight"].equal(before[f"{layer}.weight"] + product)
    assert after["blocks.0.mlp.fc1.weight"].equal(before["blocks.0.mlp.fc1.weight"])
    assert adapters["head.weight"].equal(after["head.weight"])
    assert not any("lora" in name for name in after)


def check_lineage(attempts: dict[str, Attempt]) -> None:
    for stage, parent in (("upscale", "pretrain"), ("finetune", "upscale")):
        manifest, before = attempts[stage].manifest, attempts[parent].manifest
        assert manifest is not None
        assert before is not None
        assert manifest.parent is not None
        assert manifest.parent.fingerprint == attempts[parent].fingerprint
        assert manifest.parent.weights_sha256 == before.files["weights.safetensors"].sha256
        assert manifest.parent.mlflow_run_id == before.mlflow_run_id
    finetune = attempts["finetune"].manifest
    assert finetune is not None
    assert finetune.dataset is not None
    assert finetune.step == 4
    assert finetune.config().num_classes == 10
    assert set(finetune.versions) >= {"torch", "ray", "deepspeed"}
    assert len(finetune.dataset.digest) == 64
    assert 0 <= finetune.metrics["val/accuracy"] <= 1
    assert finetune.metrics["val/samples"] == 377


def check_mlflow(client: MlflowClient, attempts: dict[str, Attempt]) -> None:
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 + len(STAGES)  # the parent run, and one a stage for two workers
    for stage, steps in (("pretrain", 6), ("upscale", 2), ("finetune", 4)):
        manifest = attempts[stage].manifest
        assert manifest is not None
        run = client.get_run(manifest.mlflow_run_id)
        assert run.info.status == "FINISHED"
        assert run.data.tags["vit.fingerprint"] == attempts[stage].fingerprint
        assert run.data.tags["vit.weights"] == attempts[stage].uri
        assert run.data.params["steps"] == str(steps)
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [metric.step for metric in history] == list(range(1, steps + 1))
        wanted = {"val/accuracy", "train/images_per_second", "train/epoch"}
        assert wanted <= run.data.metrics.keys()
        waits = client.get_metric_history(run.info.run_id, "train/first_batch_seconds")
        assert len(waits) == 1  # one group waits once
        assert waits[0].value > 0
        assert any(name.startswith("system/") for name in run.data.metrics)
        artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert {"config.yaml", "manifest.json", "pictures"} <= artifacts
    upscale, parent = attempts["upscale"].manifest, attempts["pretrain"].manifest
    assert upscale is not None
    assert parent is not None
    child = client.get_run(upscale.mlflow_run_id).data.tags
    assert child["vit.parent.mlflow_run_id"] == parent.mlflow_run_id
    assert child["vit.parent.weights"] == attempts["pretrain"].uri
