"""A manifest survives JSON, names what is wrong with it, and takes what a later version adds."""

import json
from dataclasses import asdict, replace

import pytest

from pipelines.lineage.manifest import File, Manifest, Parent, manifest_from_json
from pipelines.recipes.digits import FINETUNE
from pipelines.recipes.fingerprint import plain
from storage.errors import CorruptWeights

PARENT = Parent(
    stage="upscale",
    fingerprint="f" * 16,
    attempt="f" * 16,
    weights_sha256="0" * 64,
    mlflow_run_id="r",
)
MANIFEST = Manifest(
    stage=plain(asdict(FINETUNE)),
    parent=PARENT,
    step=150,
    metrics={"val/accuracy": 0.5},
    files={"weights.safetensors": File(bytes=3, sha256="0" * 64)},
)


def test_a_manifest_survives_json() -> None:
    values = json.loads(json.dumps(MANIFEST.to_json()))
    assert manifest_from_json(values, "runs/a") == MANIFEST
    assert manifest_from_json(values | {"of_a_later_version": 1}, "runs/a") == MANIFEST
    parent = values["parent"] | {"of_a_later_version": 1}
    assert manifest_from_json(values | {"parent": parent}, "runs/a") == MANIFEST
    assert MANIFEST.config() == FINETUNE.model
    assert MANIFEST.data() == FINETUNE.data


def test_a_stage_from_scratch_says_so_and_evaluations_fields_are_left_out() -> None:
    values = replace(MANIFEST, parent=None, files={}).to_json()
    assert values["parent"] is None
    assert not {"model", "weights"} & values.keys()
    assert values["files"] == {}  # an evaluation without pictures can be read back


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"step": "many"}, "step"),
        ({"parent": {"stage": "upscale"}}, "parent.fingerprint"),
        ({"files": {"weights.safetensors": {"bytes": 3}}}, "files.weights.safetensors.sha256"),
        ({"stage": None}, "stage"),
    ],
)
def test_what_is_wrong_is_named_with_the_place(change: dict, named: str) -> None:
    with pytest.raises(CorruptWeights, match=rf"^runs/a/manifest.json: {named}: "):
        manifest_from_json(MANIFEST.to_json() | change, "runs/a")


@pytest.mark.parametrize("stage", [{}, {"model": {"kind": "cnn"}, "data": {"dataset": 3}}])
def test_a_stage_of_another_version_is_refused(stage: dict) -> None:
    other = replace(MANIFEST, stage=stage)
    with pytest.raises(CorruptWeights, match=r"stage\.model"):
        other.config()
    with pytest.raises(CorruptWeights, match=r"stage\.data"):
        other.data()
