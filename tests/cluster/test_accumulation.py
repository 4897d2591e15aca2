"""Sums of gradients in float32, gradients that are NaN, exact resumes of the fused AdamW."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.support import accumulation_worker
from tests.cluster.support.groups import run_group


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("accumulation")
    run_group(accumulation_worker.__name__, 1, folder, seconds=240)
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("offload", ["", "-offload"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_bfloat16_gradients_of_64_micro_batches_are_summed_in_float32(
    report: Any, level: int, offload: str
) -> None:
    assert report["errors"][f"{level}{offload}"] < 1e-5  # in bfloat16: 1e-2


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_resume_under_fused_adamw_is_exact(report: Any, level: int) -> None:
    assert report["differing"][str(level)] == []


@pytest.mark.parametrize("offload", ["", "-offload"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_step_whose_gradient_is_nan_changes_nothing(
    report: Any, level: int, precision: str, offload: str
) -> None:
    assert report["changed"][f"{level}{offload}-{precision}"] == []
