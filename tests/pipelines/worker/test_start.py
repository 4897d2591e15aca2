"""What a worker group begins with: which weights are drawn, which optimizer a GPU gets."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cluster.batching import BatchPlan
from cluster.settings import Place, Zero
from pipelines.recipes.digits import PRETRAIN
from pipelines.worker import start as starts

PLAN = BatchPlan(micro=8, workers=2, accumulation=1)


class Given(Exception):
    """What `build_engine` was given."""

    def __init__(self, model: Any, optimizer: Any, config: Any) -> None:
        self.model, self.optimizer, self.config = model, optimizer, config


def given(
    monkeypatch: pytest.MonkeyPatch, *, rank: int = 0, device: str = "cpu", **changes: Any
) -> Given:
    def build_engine(model: Any, optimizer: Any, config: Any, *, average: bool) -> None:
        raise Given(model, optimizer, config)

    monkeypatch.setattr(starts, "build_engine", build_engine)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: module)
    job: Any = SimpleNamespace(
        stage=replace(PRETRAIN, precision="bfloat16"), place=Place(**changes), start_uri=""
    )
    survival: Any = SimpleNamespace(beat=lambda *said: None, open_state=lambda: nullcontext(None))
    with pytest.raises(Given) as raised:
        starts.start(
            job,
            PLAN,
            survival,
            lambda: iter([{}]),
            rank=rank,
            device=torch.device(device),
            dtype=torch.bfloat16,
        )
    return raised.value


def fused(found: Given) -> list[bool]:
    return [bool(group["fused"]) for group in found.optimizer.param_groups]


def test_a_gpu_gets_the_fused_optimizer_and_overlapping_reductions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = given(monkeypatch, device="cuda")
    assert all(fused(found))
    assert found.config["zero_optimization"]["overlap_comm"]


@pytest.mark.parametrize(
    ("device", "changes"), [("cpu", {}), ("cuda", {"zero": Zero(offload_optimizer=True)})]
)
def test_what_steps_on_the_host_is_not_fused(
    device: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any(fused(given(monkeypatch, device=device, **changes)))


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_rank_whose_weights_count_draws_them(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [not p.isnan().any() for p in given(monkeypatch, rank=rank).model.parameters()]
    assert set(drawn) == {rank == 0}
