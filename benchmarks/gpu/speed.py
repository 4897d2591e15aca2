"""How fast and how large: the card's limits, training steps, saves, memory against the plan."""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.cuda import nccl

import vit
from benchmarks.gpu.bench import BATCHES, GIB, Bench
from benchmarks.model import TIMM
from cluster import resume_state
from cluster.precision import set_arithmetic
from cluster.settings import ZeroLevel
from pipelines.worker.saver import Saver
from pipelines.worker.transfer import DeviceBatches
from pipelines.worker.utilisation import device_name, peak_flops
from tests.vit.support.peers import import_timm
from vit.compiled import compile_blocks

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


def env(bench: Bench) -> None:
    """Versions; on a GPU its memory, matrix products and copies, which bound all that follows."""
    fig = bench.report.figure
    name = device_name(bench.device)
    versions = f"python {sys.version.split()[0]}, torch {torch.__version__}"
    fig("versions", f"{versions}, CUDA {torch.version.cuda}")
    if not bench.gpu:
        fig("device", name)
        return
    total = torch.cuda.get_device_properties(bench.device).total_memory
    version = ".".join(map(str, nccl.version()))
    fig("device", f"{name}, {total / GIB:.2f} GiB, NCCL {version}")
    peak = peak_flops(name, "bfloat16")
    bench.report.check("peak known", peak is not None, f"{(peak or 0) / 1e12:.0f} TFLOP/s bfloat16")
    square = torch.randn(8192, 8192, device=bench.device, dtype=torch.bfloat16)
    seconds = bench.seconds(lambda: square @ square, steps=20)
    fig("matrix product, bfloat16", f"{2 * 8192**3 / seconds / 1e12:.0f} TFLOP/s")
    host = torch.empty(256 * 224 * 224 * 3, dtype=torch.uint8)
    for kind, source in (("pageable", host), ("pinned", host.pin_memory())):
        copy = _copier(source, bench.device)
        seconds = bench.seconds(copy, steps=5)
        rate = len(host) / seconds / 1e9
        fig(f"host to device, {kind}", f"{rate:.1f} GB/s, 256 images in {seconds * 1e3:.2f} ms")
    held = torch.empty(2**28, device=bench.device)  # 1 GiB
    pinned = torch.empty(2**28, pin_memory=True)
    seconds = bench.seconds(lambda: held.to("cpu", copy=True), steps=1, warm=1)
    fig("device to host, pageable", f"{held.nbytes / seconds / 1e9:.1f} GB/s")
    seconds = bench.seconds(lambda: pinned.copy_(held, non_blocking=True), steps=3)
    fig("device to host, pinned", f"{held.nbytes / seconds / 1e9:.1f} GB/s")


def _copier(source: torch.Tensor, device: torch.device) -> Callable[[], object]:
    return lambda: source.to(device, non_blocking=True)


def mfu(bench: Bench) -> None:
    """Training steps of each size: timm's model, ours in a plain loop, ours in DeepSpeed's engine.

    MFU is of the data sheet's peak without sparsity. Level 3 comes last: for it, DeepSpeed replaces
    torch's linear layer in the whole process.
    """
    for size in bench.sizes:
        _mfu_of(bench, size)
    for size in bench.sizes:
        _mfu_of(bench, size, last=True)


def _mfu_of(bench: Bench, size: str, *, last: bool = False) -> None:
    batch = 4 if bench.tiny else BATCHES[size]
    config = bench.config(size)
    flops = vit.build_model(config, device="meta").cost().training_flops
    peak = peak_flops(device_name(bench.device), "bfloat16")
    pixels, labels = bench.images(config, batch)
    there = pixels.to(bench.device), labels.to(bench.device)

    def show(name: str, work: Callable[[], object]) -> float:
        bench.clear()
        try:
            seconds = bench.seconds(work, steps=bench.steps)
        except torch.OutOfMemoryError:
            bench.report.figure(f"mfu {size} b{batch} {name}", "out of memory")
            return 0.0
        share = f", MFU {batch * flops / seconds / peak:.1%}" if peak else ""
        held = f", {torch.cuda.max_memory_allocated() / GIB:.1f} GiB" if bench.gpu else ""
        rate = f"{seconds * 1e3:.1f} ms, {batch / seconds:.0f} img/s"
        bench.report.figure(f"mfu {size} b{batch} {name}", f"{rate}{share}{held}")
        return batch / seconds

    def levels(*levels: ZeroLevel) -> float:
        """Images on the device against images from the host; return what the last level reached."""
        held = 0.0
        for level in levels:
            engine = bench.engine(vit.build_model(config), level, "bfloat16", micro=batch)
            fed = show(f"level {level}, host copies", _fed(bench, engine, (pixels, labels)))
            held = show(f"level {level}, images on the device", _stepper(bench, engine, there))
            engine.destroy()
            if bench.gpu and held:
                text = f"{fed / held:.3f} of images on the device"
                bench.report.check(f"mfu {size} b{batch} copies {level}", fed >= 0.98 * held, text)
        return held

    if last:
        levels(3)
        return
    peer = _timm_rows(bench, size, config, there, show)
    model = vit.build_model(config).to(bench.device, torch.bfloat16)
    plain = show("plain loop, bfloat16", _plain(bench, model, there, autocast=False))
    if peer:
        how = _compile(model, size)
        best = show(f"plain loop, bfloat16, {how}", _plain(bench, model, there, autocast=False))
        text = f"{best / peer:.2f} of timm {how}"
        bench.report.check(f"mfu {size} b{batch} against timm", best >= 0.95 * peer, text)
    model = vit.build_model(config)
    compile_blocks(model, backend="inductor" if bench.gpu else "eager")
    engine = bench.engine(model, 1, "bfloat16", micro=batch)
    show("level 1, host copies, compiled blocks", _fed(bench, engine, (pixels, labels)))
    engine.destroy()
    set_arithmetic("bfloat16", deterministic=True)
    engine = bench.engine(vit.build_model(config), 1, "bfloat16", micro=batch)
    show("level 1, deterministic", _stepper(bench, engine, there))
    engine.destroy()
    torch.use_deterministic_algorithms(False)
    held = levels(1)
    if bench.gpu and plain:
        text = f"{held / plain:.2f} of the plain loop"
        bench.report.check(f"mfu {size} b{batch} engine", held >= 0.95 * plain, text)
    levels(2)


def _timm_rows(
    bench: Bench,
    size: str,
    config: vit.ViTConfig,
    there: tuple[torch.Tensor, torch.Tensor],
    show: Callable[[str, Callable[[], object]], float],
) -> float:
    """Images per second of timm's model, compiled; 0 if it is not installed or not measured."""
    if bench.tiny:
        return 0.0
    try:
        timm = import_timm()
    except ImportError:
        bench.report.figure(f"mfu {size} timm", "not run: timm is not installed")
        return 0.0
    model = timm.create_model(TIMM[size], act_layer="gelu_tanh", num_classes=config.num_classes)
    model.to(bench.device)
    show("timm, autocast", _plain(bench, model, there, autocast=True))
    how = _compile(model, size)
    return show(f"timm, autocast, {how}", _plain(bench, model, there, autocast=True))


def _compile(model: nn.Module, size: str) -> str:
    """Compile timm's model or ours in place, L and H a block at a time; return how.

    A whole model of 24 blocks takes a minute to compile.
    """
    if size not in ("l", "h"):
        model.compile()
        return "compiled"
    for block in model.get_submodule("blocks").children():
        block.compile(dynamic=False)
    return "compiled blocks"


def _plain(
    bench: Bench,
    model: nn.Module,
    there: tuple[torch.Tensor, torch.Tensor],
    *,
    autocast: bool,
) -> Callable[[], object]:
    """A step of a loop without DeepSpeed: AdamW, clipping."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=bench.gpu)
    pixels, labels = there

    def work() -> None:
        images = vit.normalize(pixels)
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=autocast):
            logits = model(images if autocast else images.to(torch.bfloat16))
        loss = nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return work


def _stepper(
    bench: Bench, engine: "DeepSpeedEngine", batch: tuple[torch.Tensor, torch.Tensor]
) -> Callable[[], object]:
    return lambda: bench.train(engine, *batch, "bfloat16")


def _fed(
    bench: Bench, engine: "DeepSpeedEngine", batch: tuple[torch.Tensor, torch.Tensor]
) -> Callable[[], object]:
    """The same with images from host memory, copied ahead as the trainer does it."""
    pixels, labels = batch
    columns: dict[str, np.ndarray] = {"image": pixels.numpy(), "label": labels.numpy()}
    batches = DeviceBatches(itertools.repeat(columns), bench.device, ahead=True)

    def work() -> None:
        there, _ = next(batches)
        bench.train(engine, there["image"], there["label"], "bfloat16")

    return work


def save(bench: Bench) -> None:
    """How long a save of the resume state stops the steps, and how slow they are beside it."""
    for size in bench.sizes:
        config, batch = bench.config(size), 4 if bench.tiny else 32
        engine = bench.engine(vit.build_model(config), 1, "bfloat16", micro=batch)
        step = _stepper(bench, engine, bench.images(config, batch))
        alone = bench.seconds(step, steps=5)
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            saver = Saver(folder, rank=0, world_size=1, token="token", keep=1)
            stalls, whole = [], []
            for number in range(1, 4):
                bench.wait()
                began = time.perf_counter()
                saver.save(number, resume_state.own_pieces(engine))
                stalls.append(time.perf_counter() - began)
                saver.finish()
                whole.append(time.perf_counter() - began)
            written = saver.failure is None
            bench.report.check(f"save {size} written", written, saver.failure or "3 states")
        stall = statistics.median(stalls)
        bench.report.figure(
            f"save {size}",
            f"stops the steps for {stall:.2f} s, {stall / alone:.1f} steps; committed after"
            f" {statistics.median(whole):.1f} s",
        )
        engine.destroy()
        bench.clear()


MEMORY_CASES = (("b", 64, 1), ("b", 256, 1), ("b", 64, 4), ("l", 64, 1), ("h", 32, 1))
"""Size, images of a micro-batch, micro-batches of a step."""


def memory(bench: Bench) -> None:
    """The plan's memory of a worker against what its process allocated (benchmarks/memory.py)."""
    from benchmarks.memory import measured, predicted

    cases = (("ti", 8, 1),) if bench.tiny else MEMORY_CASES
    levels: tuple[ZeroLevel, ...] = (1,) if bench.tiny else (1, 2, 3)
    for size, batch, accumulation in cases:
        how = {"workers": 1, "accumulation": accumulation}
        for level in levels if size in bench.sizes else ():
            wanted = predicted(size, level, batch, dtype="bfloat16", gpu=bench.gpu, **how)
            kind = bench.device.type
            found = measured(size, level, batch, dtype="bfloat16", device=kind, **how)
            text = f"planned {wanted / GIB:.2f}, measured {found / GIB:.2f} GiB"
            name = f"memory {size} b{batch}{f' x{accumulation}' if accumulation > 1 else ''}"
            name += f" level {level}"
            if bench.gpu:
                good = 0.9 < wanted / found < 1.1
                bench.report.check(name, good, f"{text}, {wanted / found:.2f}")
            else:  # a CPU's allocator keeps more than it was asked for
                bench.report.figure(name, text)
