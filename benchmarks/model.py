"""Throughput and memory of the model against timm's and Hugging Face's ViT of the same size.

    python -m benchmarks.model                     Ti, S, B at 224 px, two threads
    python -m benchmarks.model --threads 1 --clock cpu        on a machine that others use too
    python -m benchmarks.model --sizes s --device cuda --dtype bfloat16 --batch 256

One process, same threads, same images; the rounds go round the models, so that a busy minute hits
all of them, and each starts another one. Reported are the best round (others' work on the machine
only adds time) and the median one; the fraction is of the best matrix product of the same run. The
ratio to a peer is taken within each round; its median and quartiles are given.
Memory is the growth of a fresh process (CPU) or of the allocator. Absent peers are named.
"""

import argparse
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vit
from benchmarks.usage import memory_bytes
from tests.vit.support.peers import import_timm

SIZES = {"ti": "vit_ti16", "s": "vit_s16", "b": "vit_b16", "l": "vit_l16", "h": "vit_h14"}
TIMM = {
    "ti": "vit_tiny_patch16_224",
    "s": "vit_small_patch16_224",
    "b": "vit_base_patch16_224",
    "l": "vit_large_patch16_224",
    "h": "vit_huge_patch14_224",
}
BATCHES = {"ti": 16, "s": 8, "b": 4, "l": 2, "h": 1}
"""Images of a step without `--batch`."""


def config_of(size: str) -> vit.ViTConfig:
    config = vit.VARIANTS[SIZES[size]]
    assert isinstance(config, vit.ViTConfig)
    return config


def vit_model(size: str) -> nn.Module:
    return vit.build_model(config_of(size))


def timm_model(size: str) -> nn.Module:
    # Same GELU everywhere, or the comparison is one of activations.
    # Its H has no head by default.
    return import_timm().create_model(
        TIMM[size], act_layer="gelu_tanh", num_classes=config_of(size).num_classes
    )


class HuggingFace(nn.Module):
    def __init__(self, size: str) -> None:
        super().__init__()
        import transformers

        config = config_of(size)
        described: dict[str, Any] = {
            "patch_size": config.patch_size,
            "hidden_size": config.width,
            "num_hidden_layers": config.depth,
            "num_attention_heads": config.heads,
            "intermediate_size": config.mlp_dim,
            "num_labels": config.num_classes,
            "hidden_act": "gelu_pytorch_tanh",
            "attn_implementation": "sdpa",
        }
        self.model = transformers.ViTForImageClassification(transformers.ViTConfig(**described))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


MODELS: dict[str, tuple[str, Callable[[str], nn.Module]]] = {
    "vit": ("torch", vit_model),
    "timm": ("timm", timm_model),
    "Hugging Face": ("transformers", HuggingFace),
}


def present() -> dict[str, Callable[[str], nn.Module]]:
    for name, (package, _) in MODELS.items():
        if find_spec(package) is None:
            print(f"{name}: absent, install {package} to compare")
    return {n: make for n, (package, make) in MODELS.items() if find_spec(package) is not None}


def forward(model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        model(images)


def forward_and_backward(model: nn.Module, images: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model(images).square().mean().backward()


TASKS = {"forward": forward, "forward+backward": forward_and_backward}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds(work: Callable[[], Any], device: str, clock: str) -> float:
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = CLOCKS[clock]()
    work()
    synchronize()
    return CLOCKS[clock]() - start


def matmul_peak(device: str, dtype: torch.dtype, clock: str) -> float:
    """FLOP/s of the best of some square matrix products."""
    side = 8192 if device == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=dtype)
    b = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / min(seconds(lambda: a @ b, device, clock) for _ in range(3))


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile; all the same of one value."""
    return statistics.quantiles(values, n=4) if len(values) > 1 else [*values] * 3


def measure(size: str, arguments: argparse.Namespace) -> None:
    makers = present()
    config = config_of(size)
    cost = vit.build_model(config, device="meta").cost()
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    batch = arguments.batch or BATCHES[size]
    images = torch.rand(batch, 3, 224, 224, device=device) * 2 - 1
    # Training mode and no dropout anywhere: what is measured is a training step's arithmetic.
    models = {name: make(size).to(device).train() for name, make in makers.items()}
    cast = nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype=dtype)
    print(
        f"\n{SIZES[size]}  {cost.parameters:,} parameters  {cost.forward_macs / 1e9:.2f} GMAC  "
        f"batch {batch}  {arguments.dtype}"
    )
    for task, work in TASKS.items():
        times: dict[str, list[float]] = {name: [] for name in models}
        peaks: list[float] = []
        with cast:
            for number in range(arguments.rounds + 1):
                peaks.append(matmul_peak(device, dtype, arguments.clock))
                first = number % len(models)
                for name in [*models][first:] + [*models][:first]:
                    step = partial(work, models[name], images)
                    took = seconds(step, device, arguments.clock)
                    if number:  # the first round warms up
                        times[name].append(took)
        peak = max(peaks)
        flops = cost.forward_flops if task == "forward" else cost.training_flops
        rates = {name: batch / min(taken) for name, taken in times.items()}
        print(f"  {task}   (matmul peak {peak / 1e9:,.0f} GFLOP/s)")
        for name, rate in rates.items():
            memory = peak_memory(size, name, task, batch, arguments)
            median = batch / statistics.median(times[name])
            print(
                f"    {name:<13} {rate:8.2f} img/s (median {median:.2f})   "
                f"{rate * flops / peak:5.1%} of peak   {memory / 2**20:6.0f} MiB"
            )
        for name in list(times)[1:]:
            pairs = zip(times["vit"], times[name], strict=True)
            low, middle, high = quartiles([other / own for own, other in pairs])
            print(f"    vit / {name}: {middle:.2f}x ({low:.2f} to {high:.2f})")


def peak_memory(size: str, name: str, task: str, batch: int, arguments: argparse.Namespace) -> int:
    """Bytes of one step above those of interpreter, libraries and images."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(
        target=_report_memory, args=(send, size, name, task, batch, arguments)
    )
    process.start()
    send.close()
    grown: int = receive.recv()
    process.join()
    return grown


def _report_memory(
    send: Any, size: str, name: str, task: str, batch: int, arguments: argparse.Namespace
) -> None:
    torch.set_num_threads(arguments.threads)
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    images = torch.rand(batch, 3, 224, 224, device=device)
    warm = torch.rand(256, 256, device=device, requires_grad=True)
    (warm @ warm).sum().backward()  # brings the libraries' own buffers
    MODELS[name][1]("ti")  # and the peer's imports
    gc.collect()
    before = memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model = MODELS[name][1](size).to(device).train()
    cast = nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype=dtype)
    with cast:
        TASKS[task](model, images)
    if device == "cuda":
        send.send(torch.cuda.max_memory_allocated())
        return
    send.send(memory_bytes("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), default=["ti", "s", "b"])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=0, help="images a step; 0 fits the size")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--clock",
        choices=sorted(CLOCKS),
        default="wall",
        help="cpu: for one thread on a shared machine",
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds: wanted at least 1, found {arguments.rounds}")
    if arguments.clock == "cpu" and (arguments.threads != 1 or arguments.device != "cpu"):
        parser.error("--clock cpu counts threads that wait as working: use --threads 1, on the CPU")
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds, "
        f"{arguments.clock} clock"
    )
    for size in arguments.sizes:
        measure(size, arguments)


if __name__ == "__main__":
    main()
