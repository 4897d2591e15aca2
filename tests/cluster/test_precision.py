import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cluster.precision import Precision, element_type, set_arithmetic


@pytest.fixture(autouse=True)
def switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)
    switches: Any = torch.utils.deterministic
    switches.fill_uninitialized_memory = True


@pytest.mark.parametrize(
    ("precision", "tf32"), [("float32", False), ("tf32", True), ("bfloat16", False)]
)
def test_only_tf32_rounds_products_and_convolutions_alike(precision: Precision, tf32: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = not tf32
    set_arithmetic(precision)
    assert torch.backends.cuda.matmul.allow_tf32 == tf32
    assert torch.backends.cudnn.allow_tf32 == tf32  # torch's default is True
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_tf32_is_no_type_of_tensors(precision: Precision, expected: torch.dtype) -> None:
    assert element_type(precision) is expected


def test_deterministic_sets_what_torch_and_cublas_ask_for() -> None:
    set_arithmetic("float32", deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
