"""A stage whose blocks are compiled by inductor, here on the CPU: the same numbers, on record."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.lineage.manifest import Manifest, read_manifest

SCIENCE = [
    *("--stage.steps", "6", "--stage.eval-every-steps", "3", "--stage.model.depth", "2"),
    *("--stage.global-batch", "64", "--stage.optim.warmup-steps", "2"),
]
NOTE = "compiled blocks: the first step takes longer"
PLACE = ["--place.workers.max", "1", "--place.save-every-steps", "0", "--place.hang-seconds", "60"]


def trained(place: list[str], root: Path, address: str, run: str, *words: str) -> tuple[str, str]:
    """What the command printed, and where the attempt is."""
    script = [sys.executable, "-P", "pipelines/pretrain.py", "--run", run]
    done = subprocess.run(
        [*script, *place, *PLACE, *SCIENCE, *words],
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (root / run / "pretrain").iterdir()
    return done.stdout + done.stderr, str(folder)


def manifest(folder: str) -> Manifest:
    found = read_manifest(folder)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
def test_a_compiled_stage_computes_the_same_and_says_so(
    ray_session: str, place: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    said, plain = trained(place, root, ray_session, "plain")
    assert NOTE not in said
    said, compiled = trained(place, root, ray_session, "compiled", "--place.compile")
    assert NOTE in said
    expected, found = manifest(plain), manifest(compiled)
    assert found.metrics["val/loss"] == pytest.approx(expected.metrics["val/loss"], rel=1e-4)
    assert (expected.arithmetic["compile"], found.arithmetic["compile"]) == (False, True)
    assert found.fingerprint == expected.fingerprint  # how, not what
    (uri,) = re.findall(r"sqlite:\S+", " ".join(place))
    client = MlflowClient(uri)
    seconds = [
        client.get_metric_history(each.mlflow_run_id, "train/first_step_seconds")
        for each in (expected, found)
    ]
    assert [len(values) for values in seconds] == [1, 1]
    eager, first = (values[0].value for values in seconds)
    assert first > eager
    print(f"first step: {eager:.1f} s, compiled {first:.1f} s")
