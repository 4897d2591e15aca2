"""Compare the memory that `pipelines/plan.py` predicts for a worker with a measured process.

    python -m benchmarks.memory                    Ti, S, B at 224 px, float32, on the CPU
    python -m benchmarks.memory --sizes s --workers 2 --batch 4
    python -m benchmarks.memory --dtype bfloat16 --accumulation 2
    python -m benchmarks.memory --device cuda --dtype bfloat16 --batch 64

A fresh process builds the model and DeepSpeed's engine as a worker does and takes two steps of
AdamW, alone (the partition is the whole) or as one of `--workers`. Its high-water mark (VmHWM, or
the CUDA allocator's) above that before building is compared with the prediction. Load does not
matter. glibc is told to give every tensor pages of its own and to return them: its usual heap keeps
freed tensors of up to 32 MiB, a quarter to a half on top (`--heap`), as a GPU's caching allocator
does to a lesser degree; the plan adds an allowance for either.
"""

import argparse
import gc
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any, get_args

import torch

import vit
from benchmarks.model import SIZES, config_of
from benchmarks.usage import memory_bytes
from cluster.budget import model_states
from cluster.precision import Precision, element_type
from cluster.settings import Zero, ZeroLevel
from cluster.zero import accumulates_in_float32
from vit.memory import activation_bytes, loss_bytes, workspace_bytes

# Read by glibc when a process starts, so that the measured one has them.
OWN_PAGES = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def predicted(
    size: str,
    level: ZeroLevel,
    batch: int,
    *,
    workers: int,
    accumulation: int,
    dtype: Precision,
    gpu: bool,
) -> int:
    config, element_bytes = config_of(size), element_type(dtype).itemsize
    states = model_states(
        vit.build_model(config, device="meta").cost().parameters,
        workers=workers,
        level=level,
        element_bytes=element_bytes,
        optimizer_states=2,
        adam=True,
        on_gpu=gpu,
        float32_sums=accumulates_in_float32(dtype, accumulation),
    )
    activations = (
        activation_bytes(config, batch, element_bytes=element_bytes)
        + workspace_bytes(config, batch, element_bytes=element_bytes)
        + loss_bytes(config.num_classes, batch)
    )
    return states.peak(activations, accumulates=accumulation > 1)


def measured(
    size: str,
    level: ZeroLevel,
    batch: int,
    *,
    workers: int,
    accumulation: int,
    device: str,
    dtype: Precision,
) -> int:
    """Bytes that rank 0 needs above those of interpreter and libraries, in fresh processes."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"{folder}/meeting"
        processes = [
            context.Process(
                target=_steps,
                args=(
                    send,
                    size,
                    level,
                    batch,
                    rank,
                    workers,
                    accumulation,
                    meeting,
                    device,
                    dtype,
                ),
            )
            for rank in range(workers)
        ]
        for process in processes:
            process.start()
        send.close()
        grown: int = receive.recv()
        for process in processes:
            process.join()
    return grown


def _steps(
    send: Any,
    size: str,
    level: ZeroLevel,
    batch: int,
    rank: int,
    workers: int,
    accumulation: int,
    meeting: str,
    device: str,
    dtype: Precision,
) -> None:
    from cluster.engine import end_worker, prepare_worker

    torch.set_num_threads(1)
    gpu = device == "cuda"
    accelerator = prepare_worker(
        rank=rank, local_rank=rank, world_size=workers, gpu=gpu, verbose=False
    )
    torch.distributed.init_process_group(
        "nccl" if gpu else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=workers,
    )
    _train("ti", level, 1, workers, accelerator, dtype, 1)  # brings the libraries' own memory
    gc.collect()
    before = memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    _train(size, level, batch, workers, accelerator, dtype, accumulation)
    cuda = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    if rank == 0:
        send.send(cuda or memory_bytes("VmHWM") - before)
    end_worker()


def _train(
    size: str,
    level: ZeroLevel,
    batch: int,
    workers: int,
    accelerator: torch.device,
    dtype: Precision,
    accumulation: int,
) -> None:
    from cluster.batching import BatchPlan
    from cluster.engine import build_engine
    from cluster.zero import zero_config

    config = config_of(size)
    model = vit.build_model(config).to(accelerator)
    optim = vit.OptimConfig(weight_decay=0.1)
    gpu = accelerator.type == "cuda"
    optimizer = vit.build_optimizer(vit.param_groups(model, optim), optim, fused=gpu)
    batch_plan = BatchPlan(micro=batch, workers=workers, accumulation=accumulation)
    settings = zero_config(Zero(level=level), batch_plan, precision=dtype, clip_norm=1.0, gpu=gpu)
    engine = build_engine(model, optimizer, settings)
    images = torch.rand(batch, 3, 224, 224, device=accelerator, dtype=getattr(torch, dtype))
    labels = torch.zeros(batch, dtype=torch.int64, device=accelerator)
    for _ in range(2 * accumulation):
        loss = vit.loss_fn("softmax", engine(images).float(), labels)
        engine.backward(loss)
        engine.step()
    engine.destroy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), default=["ti", "s", "b"])
    parser.add_argument("--levels", nargs="+", type=int, choices=get_args(ZeroLevel))
    parser.add_argument("--batch", type=int, default=0, help="images a step; 0 fits the size")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the states")
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches a step")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--heap", action="store_true", help="keep glibc's default heap settings")
    arguments = parser.parse_args()
    if not arguments.heap:
        os.environ.update(OWN_PAGES)
    gpu = arguments.device == "cuda"
    all_levels: list[ZeroLevel] = [0, 1, 2, 3] if arguments.dtype == "float32" else [1, 2, 3]
    levels: list[ZeroLevel] = arguments.levels or all_levels
    os.environ["PYTHONWARNINGS"] = "ignore"  # of the measured process
    print(
        f"torch {torch.__version__}, {arguments.device}, {arguments.dtype},"
        f" {arguments.workers} workers, {arguments.accumulation} micro-batches a step, AdamW"
    )
    for size in arguments.sizes:
        batch = arguments.batch or {"ti": 32, "s": 16, "b": 4, "l": 2, "h": 1}[size]
        for level in levels:
            wanted = predicted(
                size,
                level,
                batch,
                workers=arguments.workers,
                accumulation=arguments.accumulation,
                dtype=arguments.dtype,
                gpu=gpu,
            )
            grown = measured(
                size,
                level,
                batch,
                workers=arguments.workers,
                accumulation=arguments.accumulation,
                device=arguments.device,
                dtype=arguments.dtype,
            )
            print(
                f"{SIZES[size]:<9} ZeRO {level}  batch {batch:>3}   predicted"
                f" {wanted / 2**20:7.0f} MiB   measured {grown / 2**20:7.0f} MiB"
                f"   {wanted / grown:5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
