"""The host's time of a training step: ViT-B/16's parameters with next to no arithmetic.

A GPU waits for the host where its own work takes less than this.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn.utils import clip_grad_norm_

import vit
from benchmarks.gpu.bench import Bench
from benchmarks.model import config_of
from cluster.settings import ZeroLevel

ROUNDS, WARM = 100, 10
PARTS = 8
"""Micro-batches of a step whose gradients are summed."""
PLAIN = "plain loop"


def host(bench: Bench) -> None:
    """Milliseconds of a step: a plain loop, and the engine at levels 1 and 2, in turn; then of
    steps of several micro-batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a CPU more of them would wait for each other
    config = replace(
        config_of("b"), image_size=4, patch_size=2, width=8, heads=1, mlp_dim=8, num_classes=8
    )
    for parts in (1, PARTS):
        steps = {PLAIN: _plain(bench, config, parts)}
        levels: tuple[ZeroLevel, ...] = (1, 2)  # level 3 replaces torch's linear layer everywhere
        for level in levels:
            steps[f"level {level}"] = _engine(bench, config, level, parts)
        _compare(bench, steps, "" if parts == 1 else f", {parts} micro-batches")
    torch.set_num_threads(threads)


def _compare(bench: Bench, steps: dict[str, Callable[[], object]], named: str) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    rounds = 3 if bench.tiny else ROUNDS + WARM
    for number in range(rounds):
        names = list(steps)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            bench.wait()
            began = time.perf_counter()
            steps[name]()
            bench.wait()
            seconds[name].append(time.perf_counter() - began)
    counted = slice(0 if bench.tiny else WARM, None)
    middle = {name: statistics.median(found[counted]) for name, found in seconds.items()}
    for name, value in middle.items():
        ratio = value / middle[PLAIN]
        bench.report.figure(f"host {name}{named}", f"{value * 1e3:.1f} ms a step, {ratio:.2f}x")
    if bench.gpu:
        for name in set(steps) - {PLAIN}:
            _waits(bench, name + named, steps[name])


def _batch(bench: Bench) -> tuple[torch.Tensor, torch.Tensor]:
    """One image and its label."""
    pixels = torch.zeros(1, 4, 4, 3, dtype=torch.uint8, device=bench.device)
    return pixels, torch.zeros(1, dtype=torch.int64, device=bench.device)


def _engine(
    bench: Bench, config: vit.ViTConfig, level: ZeroLevel, parts: int
) -> Callable[[], object]:
    images, labels = _batch(bench)
    model = vit.build_model(config)
    engine = bench.engine(model, level, "bfloat16", micro=1, accumulation=parts, fused=True)

    def work() -> None:
        for _ in range(parts):
            bench.train(engine, images, labels, "bfloat16")

    return work


def _waits(bench: Bench, name: str, step: Callable[[], object]) -> None:
    """Whether the host waits for the GPU in a step, as torch sees it."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{each.filename}:{each.lineno}" for each in seen if "synchroniz" in str(each.message)]
    bench.report.check(f"host {name} waits", not waits, f"{len(waits)} a step {' '.join(waits)}")


def _plain(bench: Bench, config: vit.ViTConfig, parts: int) -> Callable[[], object]:
    images, labels = _batch(bench)
    model = vit.build_model(config).to(bench.device, torch.bfloat16)
    optim = vit.OptimConfig(weight_decay=0.1)
    optimizer = vit.build_optimizer(vit.param_groups(model, optim), optim, fused=True)

    def work() -> None:
        for _ in range(parts):
            logits = model(vit.normalize(images).to(torch.bfloat16)).float()
            vit.loss_fn("softmax", logits, labels).backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return work
