"""DeepSpeed: sums of 64 micro-batches in bfloat16, NaN gradients, resumes of the fused AdamW.

Run as `python -m tests.cluster.support.accumulation_worker RANK WORLD PORT FOLDER`, alone.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster.precision import Precision, element_type
from cluster.settings import Zero, ZeroLevel

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


def fused(level: ZeroLevel, *, broken: bool) -> dict[str, Tensor]:
    """The state after all steps of the fused AdamW, in one go or by way of a saved state."""
    from cluster import resume_state
    from cluster.batching import BatchPlan
    from cluster.engine import build_engine
    from cluster.zero import zero_config

    plan = BatchPlan(micro=4, workers=1, accumulation=1)
    config = zero_config(Zero(level=level), plan, precision="float32", clip_norm=1.0)
    saved: dict[str, Tensor] = {}
    for first, last in ((0, BREAK), (BREAK, STEPS)) if broken else ((0, STEPS),):
        model = build()
        if saved:
            model.load_state_dict(resume_state.module_weights(saved))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
        engine = build_engine(model, optimizer, config, average=True)
        if saved:
            resume_state.restore(engine, Whole(saved), step=first)
        for step in range(first, last):
            ((x, y),) = micro_batches(step, parts=1)
            engine.backward(nn.functional.cross_entropy(engine(x.float()), y))
            engine.step()
            resume_state.update_average(engine, 0.9)
        saved = {
            piece.name: piece.values.clone().view(piece.shape)
            for piece in resume_state.own_pieces(engine)
        }
        engine.destroy()
    return saved


def changed_by_nan(level: ZeroLevel, precision: Precision, *, offload: bool) -> list[str]:
    """Weights that a step changes whose loss is finite and whose gradient is NaN."""
    from cluster import resume_state
    from cluster.batching import BatchPlan
    from cluster.engine import build_engine
    from cluster.zero import zero_config

    plan = BatchPlan(micro=4, workers=1, accumulation=1)
    zero = Zero(level=level, offload_optimizer=offload)
    config = zero_config(zero, plan, precision=precision, clip_norm=1.0)
    model = build()
    engine = build_engine(model, torch.optim.AdamW(model.parameters(), lr=1e-2), config)
    before = resume_state.gather_weights(engine)
    ((x, y),) = micro_batches(parts=1)
    logits = engine(x.to(element_type(precision))).float()
    nothing = (0 * logits[0, 0]).abs().sqrt()  # 0, of infinite slope
    engine.backward(nn.functional.cross_entropy(logits, y) + nothing)
    engine.step()
    after = resume_state.gather_weights(engine)
    engine.destroy()
    return [name for name in before if not torch.equal(before[name], after[name])]


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
    for level in (0, *LEVELS):
        whole, resumed = (fused(level, broken=broken) for broken in (False, True))
        assert whole.keys() == resumed.keys()
        differing[f"{level}"] = [k for k, v in whole.items() if not torch.equal(v, resumed[k])]
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    changed = {
        f"{level}{'-offload' if offload else ''}-{precision}": changed_by_nan(
            level, precision, offload=offload
        )
        for level in LEVELS
        for precision in precisions
        for offload in (False, True)
    }
    report = {"errors": errors, "differing": differing, "changed": changed}
    (folder / "report.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
