"""Sums of gradients in float32, gradients that are NaN, and the fused optimizers of a GPU."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.support import accumulation_worker
from tests.cluster.support.groups import run_group
from tests.cluster.support.operators import WAITED_FOR


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("accumulation")
    run_group(accumulation_worker.main, 1, folder, seconds=240)
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("offload", ["", "-offload"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_bfloat16_gradients_of_64_micro_batches_are_summed_in_float32(
    report: Any, level: int, offload: str
) -> None:
    assert report["errors"][f"{level}{offload}"] < 1e-5  # in bfloat16: 1e-2


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_resume_under_fused_optimizers_is_exact(report: Any, level: int, name: str) -> None:
    assert report["differing"][f"{level}-{name}"] == []


@pytest.mark.parametrize("how", ["", "offload", "fused"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_step_whose_gradient_is_nan_changes_nothing(
    report: Any, level: int, precision: str, how: str
) -> None:
    assert report["changed"][f"{level}-{how}-{precision}"] == []


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_step_of_fused_sgd_whose_gradient_is_nan_changes_nothing(report: Any, level: int) -> None:
    assert report["changed"][f"{level}-fused-sgd"] == []


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_fused_optimizers_clip_and_step_as_the_others_do(
    report: Any, level: int, precision: str, name: str
) -> None:
    assert report["distances"][f"{level}-{precision}-{name}"] < 1e-6


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_sums_of_several_micro_batches_step_as_without_waiting(report: Any, name: str) -> None:
    assert report["changed"][f"1-fused-{name}-parts"] == []
    assert report["distances"][f"1-bfloat16-{name}-parts"] < 1e-6


@pytest.mark.parametrize("how", ["1", "2", "1-parts", "2-parts"])
def test_the_host_asks_a_gpu_nothing_in_a_step(report: Any, how: str) -> None:
    called = report["operators"][how]
    assert called["aten::copy_"]
    assert [name for name in WAITED_FOR if name in called] == []


def test_the_host_copies_and_measures_no_gradient_on_its_own(report: Any) -> None:
    few, many = report["operators"]["1"], report["operators"]["1-deeper"]
    assert many["aten::addmm"] > few["aten::addmm"]
    for name in ("aten::copy_", "aten::_foreach_norm.Scalar", "aten::linalg_vector_norm"):
        assert many.get(name, 0) == few.get(name, 0), name


def test_the_host_adds_no_gradient_to_its_sum_on_its_own(report: Any) -> None:
    few, many = report["operators"]["1-parts"], report["operators"]["1-parts-deeper"]
    assert many["aten::addmm"] > few["aten::addmm"]
    for name in ("aten::_to_copy", "aten::add_.Tensor", "aten::zero_", "aten::copy_"):
        assert many.get(name, 0) == few.get(name, 0), name


def test_an_engine_takes_neither_mlflow_nor_torchs_compiler_along(report: Any) -> None:
    """They would cost every start of a worker seconds of a processor."""
    assert report["unused"] == []
