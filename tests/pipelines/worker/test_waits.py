"""Neither a step nor an evaluation makes the host wait for the device, whatever is learned."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from cluster import resume_state
from pipelines.recipes import find_recipe
from pipelines.recipes.batches import plan_batch
from pipelines.recipes.objectives import stage_network, stage_objective
from pipelines.recipes.stage import Stage
from pipelines.worker.step import train_step
from pipelines.worker.validation import measure
from tests.cluster.support.operators import WAITED_FOR, Calls
from tests.pipelines.support.batches import columns
from vit import ViTConfig

CPU, META = torch.device("cpu"), torch.device("meta")
ROWS = 12


def stage_of(recipe: str) -> Stage:
    """With what a step may do besides: dropped elements and mixed images."""
    stage = find_recipe(recipe).stages[0]
    assert isinstance(stage.model, ViTConfig)
    if recipe != "digits":
        return stage
    return replace(
        stage,
        model=replace(stage.model, dropout=0.1, drop_path=0.1),
        augment=replace(stage.augment, mixup=0.2, cutmix=1.0),
    )


def waited(called: Counter[str]) -> dict[str, int]:
    return {name: called[name] for name in WAITED_FOR if called[name]}


@pytest.fixture
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A group of one rank."""
    place = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Engine:
    """A network that takes its gradients and does nothing with them."""

    def __init__(self, stage: Stage) -> None:
        self.network = stage_network(stage).train()

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None: ...


@pytest.mark.parametrize("recipe", ["digits", "digits-mae", "digits-masked-patch"])
def test_a_step_waits_for_nothing(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests/cluster/test_accumulation.py` looks at the engine's part. `nonfinite: skip` waits."""
    stage, engine = stage_of(recipe), Engine(stage_of(recipe))
    monkeypatch.setattr(
        resume_state, "inner_optimizer", lambda engine: SimpleNamespace(param_groups=[])
    )
    monkeypatch.setattr(resume_state, "update_average", lambda engine, decay: None)
    plan = plan_batch(ROWS, workers=1, max_micro_batch=4)
    given: Any = engine
    with Calls() as mode:
        train_step(
            columns(stage, ROWS, CPU),
            0,
            stage=stage,
            objective=stage_objective(stage),
            engine=given,
            plan=plan,
            device=CPU,
            dtype=torch.float32,
        )
    assert mode.counted["aten::mm"]
    assert waited(mode.counted) == {}


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("recipe", ["digits", "digits-mae", "digits-masked-patch"])
def test_an_evaluation_waits_for_nothing_before_its_end(recipe: str) -> None:
    stage = find_recipe(recipe).stages[0]
    network = stage_network(stage).eval()

    def asked(batches: int) -> dict[str, int]:
        every = [columns(stage, ROWS, CPU)] * batches
        with torch.no_grad(), Calls() as mode:
            dict(measure(stage, stage_objective(stage), network, every, device=CPU, micro_batch=4))
        return waited(mode.counted)

    assert asked(3) == asked(1)


class Copies(Calls):
    """Counts copies from the host to a device, and refuses one that the host waits for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].device == CPU:
            how = kwargs or {}
            waits = how.get("device", CPU) != CPU and not how.get("non_blocking")
            assert not waits, "the host waits for a copy"
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize("recipe", ["digits", "digits-mae", "digits-masked-patch"])
def test_an_evaluation_copies_without_waiting(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that answers no question, up to the one at the end."""
    stage = find_recipe(recipe).stages[0]
    network = stage_network(stage).eval().to(META)
    monkeypatch.setattr(dist, "all_reduce", lambda totals: None)
    batches = [columns(stage, ROWS, META)] * 2
    with torch.no_grad(), Copies() as mode, pytest.raises(NotImplementedError, match="no data"):
        next(measure(stage, stage_objective(stage), network, batches, device=META, micro_batch=4))
    assert mode.counted["aten::addmm"]
