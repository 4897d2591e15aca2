"""DeepSpeed: sums of 64 micro-batches in bfloat16, NaN gradients, the fused optimizers."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster.precision import Precision, element_type
from cluster.settings import Zero, ZeroLevel
from tests.cluster.support.operators import Calls

PARTS, STEPS, BREAK = 64, 6, 3
LEVELS: tuple[ZeroLevel, ...] = (1, 2, 3)


def build() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
    for parameter in model.parameters():  # a bfloat16 each: only the sums are rounded
        parameter.data = parameter.data.bfloat16().float()
    return model


def micro_batches(step: int = 0, parts: int = PARTS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(parts * 4, 16, generator=generator).bfloat16()
    y = torch.randint(0, 8, (parts * 4,), generator=generator)
    return list(zip(x.split(4), y.split(4), strict=True))


def exact() -> Tensor:
    """The gradient: those of the micro-batches, in bfloat16 each, summed in float64."""
    model = build().bfloat16()
    total = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for x, y in micro_batches():
        model.zero_grad()
        (nn.functional.cross_entropy(model(x).float(), y) / PARTS).backward()
        total += torch.cat([p.grad.double().flatten() for p in model.parameters()])  # type: ignore[union-attr]  # all have one
    return total


def summed(level: ZeroLevel, *, offload: bool) -> float:
    """Relative error of the engine's gradient: SGD at rate 1 leaves it between two weights."""
    from cluster import resume_state
    from cluster.batching import BatchPlan
    from cluster.engine import build_engine
    from cluster.zero import zero_config

    model = build()
    plan = BatchPlan(micro=4, workers=1, accumulation=PARTS)
    zero = Zero(level=level, offload_optimizer=offload)
    config = zero_config(zero, plan, precision="bfloat16", clip_norm=None)
    engine = build_engine(model, torch.optim.SGD(model.parameters(), lr=1.0), config)
    before = resume_state.gather_weights(engine)
    for x, y in micro_batches():
        engine.backward(nn.functional.cross_entropy(engine(x).float(), y))
        engine.step()
    after = resume_state.gather_weights(engine)
    engine.destroy()
    found = torch.cat([(before[name].double() - after[name]).flatten() for name in before])
    return float((found - exact()).norm() / exact().norm())


def fused(level: ZeroLevel, name: str, *, broken: bool) -> dict[str, Tensor]:
    """The state after all steps of a fused optimizer, in one go or by way of a saved state."""
    from cluster import resume_state

    saved: dict[str, Tensor] = {}
    for first, last in ((0, BREAK), (BREAK, STEPS)) if broken else ((0, STEPS),):
        model = build()
        if saved:
            model.load_state_dict(resume_state.module_weights(saved))
        engine = started(model, level, name=name, fused=True)
        if saved:
            resume_state.restore(engine, Whole(saved), step=first)
        for step in range(first, last):
            train(engine, step)
            resume_state.update_average(engine, 0.9)
        saved = state_of(engine)
        engine.destroy()
    return saved


def started(
    model: nn.Module,
    level: ZeroLevel,
    *,
    name: str = "adamw",
    fused: bool = False,
    precision: Precision = "float32",
    offload: bool = False,
    parts: int = 1,
) -> Any:
    """An engine that clips gradients at 0.1 and keeps an average; a step has so many parts."""
    from cluster.batching import BatchPlan
    from cluster.engine import build_engine
    from cluster.zero import zero_config

    optimizer: torch.optim.Optimizer
    if name == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, fused=fused)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, fused=fused)
    plan = BatchPlan(micro=4, workers=1, accumulation=parts)
    zero = Zero(level=level, offload_optimizer=offload)
    config = zero_config(zero, plan, precision=precision, clip_norm=0.1)
    return build_engine(model, optimizer, config, average=True)


def train(engine: Any, step: int, *, precision: Precision = "float32", bad: bool = False) -> None:
    """One step; with `bad` its loss is finite and its gradient is NaN."""
    for x, y in micro_batches(step, parts=engine.gradient_accumulation_steps()):
        logits = engine(x.to(element_type(precision))).float()
        loss = nn.functional.cross_entropy(logits, y)
        if bad:
            loss = loss + (0 * logits[0, 0]).abs().sqrt()  # 0, of infinite slope
        engine.backward(loss)
        engine.step()


def state_of(engine: Any) -> dict[str, Tensor]:
    """Weights and optimizer states, by name."""
    from cluster import resume_state

    return {
        piece.name: piece.values.clone().view(piece.shape)
        for piece in resume_state.own_pieces(engine)
    }


def changed_by_nan(
    level: ZeroLevel,
    precision: Precision,
    *,
    name: str = "adamw",
    fused: bool,
    offload: bool,
    parts: int = 1,
) -> list[str]:
    """What differs after a good, a bad and a good step from the two good ones alone."""
    ends = []
    for bad in (False, True):
        engine = started(
            build(),
            level,
            name=name,
            fused=fused,
            precision=precision,
            offload=offload,
            parts=parts,
        )
        train(engine, 0, precision=precision)
        if bad:
            train(engine, 1, precision=precision, bad=True)
            norm = float(engine.get_global_grad_norm())
            assert norm in (float("inf"), -1.0) or norm != norm, norm
        train(engine, 2, precision=precision)
        ends.append(state_of(engine))
        engine.destroy()
    good, found = ends
    return [key for key in good if not torch.equal(good[key], found[key])]


def distance(level: ZeroLevel, precision: Precision, name: str, *, parts: int = 1) -> float:
    """Of the weights after some steps of the fused optimizer from those of the other one."""
    ends = []
    for fused in (False, True):
        engine = started(build(), level, name=name, fused=fused, precision=precision, parts=parts)
        for step in range(STEPS):
            train(engine, step, precision=precision)
        state = state_of(engine)
        ends.append(torch.cat([state[key].flatten() for key in state if key.startswith("weights")]))
        engine.destroy()
    return float((ends[1] - ends[0]).norm() / ends[0].norm())


def calls(model: nn.Module, level: ZeroLevel, *, parts: int = 1) -> Counter[str]:
    """The operators that a step in bfloat16 calls, and how often."""
    engine = started(model, level, fused=True, precision="bfloat16", parts=parts)
    train(engine, 0, precision="bfloat16")
    with Calls() as mode:
        train(engine, 1, precision="bfloat16")
    engine.destroy()
    return mode.counted


class Whole:
    """Tensors by name as a `SavedState`."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def part(self, name: str, start: int, count: int) -> Tensor:
        return self._tensors[name].flatten()[start : start + count]


def main(rank: int, world: int, port: int, folder: Path) -> None:
    from cluster.engine import prepare_worker

    torch.set_num_threads(1)
    prepare_worker(rank=rank, local_rank=rank, world_size=world, gpu=False, verbose=False)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    errors = {f"{level}": summed(level, offload=False) for level in LEVELS}
    errors |= {f"{level}-offload": summed(level, offload=True) for level in LEVELS}
    differing = {}
    for name in ("adamw", "sgd"):
        for level in (0, *LEVELS):
            whole, resumed = (fused(level, name, broken=broken) for broken in (False, True))
            assert whole.keys() == resumed.keys()
            differing[f"{level}-{name}"] = [
                k for k, v in whole.items() if not torch.equal(v, resumed[k])
            ]
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    changed = {
        f"{level}-{how}-{precision}": changed_by_nan(
            level, precision, fused=how == "fused", offload=how == "offload"
        )
        for level in LEVELS
        for precision in precisions
        for how in ("", "offload", "fused")
    }
    changed |= {
        f"{level}-fused-sgd": changed_by_nan(
            level, "bfloat16", name="sgd", fused=True, offload=False
        )
        for level in LEVELS
    }
    distances = {
        f"{level}-{precision}-{name}": distance(level, precision, name)
        for level in LEVELS
        for precision in precisions
        for name in ("adamw", "sgd")
    }
    # Several micro-batches at level 1: another optimizer of DeepSpeed's.
    for name in ("adamw", "sgd"):
        changed[f"1-fused-{name}-parts"] = changed_by_nan(
            1, "bfloat16", name=name, fused=True, offload=False, parts=3
        )
        distances[f"1-bfloat16-{name}-parts"] = distance(1, "bfloat16", name, parts=3)
    operators = {f"{level}": calls(build(), level) for level in (1, 2)}
    operators |= {f"{level}-parts": calls(build(), level, parts=3) for level in (1, 2)}
    for how, parts in (("1-deeper", 1), ("1-parts-deeper", 3)):
        deeper = nn.Sequential(*(nn.Linear(16, 16) for _ in range(9)))
        operators[how] = calls(deeper, 1, parts=parts)
    report = {"errors": errors, "differing": differing, "changed": changed}
    unused = [name for name in ("mlflow", "torch._inductor.compile_fx") if name in sys.modules]
    report |= {"distances": distances, "operators": operators, "unused": unused}
    (folder / "report.json").write_text(json.dumps(report))
