"""Cost of fault tolerance: stall of a save, size of a state, ZeRO against torch's DDP and FSDP2.

    python -m benchmarks.resilience                      all of it, on CPUs
    python -m benchmarks.resilience save --model vit_s16 --steps 60
    python -m benchmarks.resilience zero --model vit_ti16 --rounds 5
    python -m benchmarks.resilience restart              a real job, killed

save: two processes train with DeepSpeed; every 20th step's state is saved as in a stage. Blocks of
20 steps with and without a save alternate. The stall is the time that the save holds the training
up; the ratio of the blocks also has what writing takes from the steps beside it.
zero: two processes, the same model and batch, one step after the other: DeepSpeed's levels, torch's
DistributedDataParallel and fully_shard (FSDP2), in turn, AdamW everywhere.
restart: a job on a Ray of this machine loses a worker; seconds until a state of more steps lies
there, which is restart, first steps and a save.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

import vit
from cluster import resume_state
from cluster.batching import BatchPlan
from cluster.settings import Zero, ZeroLevel

WORKERS, EVERY = 2, 20
Step = Callable[[], None]


def config_of(name: str) -> vit.ViTConfig:
    """A variant at its own 224 px and 1,000 classes."""
    config = vit.VARIANTS[name]
    assert isinstance(config, vit.ViTConfig)
    return config


def deepspeed_step(name: str, level: ZeroLevel, batch: int) -> tuple[Step, Any]:
    """One step over a fixed batch, and the engine that does it."""
    from cluster.engine import build_engine
    from cluster.zero import zero_config

    model = vit.build_model(config_of(name))
    optim = vit.OptimConfig(weight_decay=0.1)
    plan = BatchPlan(micro=batch, workers=WORKERS, accumulation=1)
    settings = zero_config(Zero(level=level), plan, precision="float32", clip_norm=None)
    optimizer = vit.build_optimizer(vit.param_groups(model, optim), optim)
    engine = build_engine(model, optimizer, settings)
    images, labels = torch.rand(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.int64)

    def step() -> None:
        engine.backward(vit.loss_fn("softmax", engine(images), labels))
        engine.step()

    return step, engine


def torch_step(name: str, kind: str, batch: int) -> tuple[Step, Any]:
    """The same under DistributedDataParallel or FSDP2."""
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    plain: Any = vit.build_model(config_of(name))
    model = DistributedDataParallel(plain) if kind == "ddp" else plain
    if kind == "fsdp2":
        for block in plain.blocks:
            fully_shard(block)
        fully_shard(model)
    optim = vit.OptimConfig(weight_decay=0.1)
    optimizer = vit.build_optimizer(vit.param_groups(plain, optim), optim)
    images, labels = torch.rand(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.int64)

    def step() -> None:
        optimizer.zero_grad()
        vit.loss_fn("softmax", model(images), labels).backward()
        optimizer.step()

    return step, model


def timed(step: Step) -> float:
    """Seconds of one step, all workers together."""
    dist.barrier()
    began = time.perf_counter()
    step()
    dist.barrier()
    return time.perf_counter() - began


def saving(name: str, steps: int, batch: int, rank: int) -> None:
    """Print stall, ratio of blocks and size of the state."""
    from pipelines.lineage.resume_states import newest_state
    from pipelines.worker.saver import Saver

    step, engine = deepspeed_step(name, 2, batch)
    for _ in range(3):
        step()
    with tempfile.TemporaryDirectory() as folder:
        attempt = [folder]
        dist.broadcast_object_list(attempt)
        saver = Saver(attempt[0], rank=rank, world_size=WORKERS, token="benchmark", keep=1)
        stalls, plain, saved = [], [], []
        for block in range(2 * max(1, steps // EVERY)):
            saves = block % 2 == 0
            began = time.perf_counter()
            if saves:
                saver.save(block, resume_state.own_pieces(engine))
                stalls.append(time.perf_counter() - began)
            seconds = sum(timed(step) for _ in range(EVERY))
            (saved if saves else plain).append(seconds + (stalls[-1] if saves else 0))
        saver.finish()
        dist.barrier()
        if rank == 0:
            state = newest_state(attempt[0])
            assert state is not None
            size = sum(file.stat().st_size for file in Path(state.uri).glob("*.safetensors"))
            parameters = sum(p.numel() for p in engine.module.parameters())
            share = [stall / block for stall, block in zip(stalls, plain, strict=True)]
            ratio = [a / b for a, b in zip(saved, plain, strict=True)]
            print(f"save, {name}, ZeRO 2 on {WORKERS} processes, every {EVERY} steps:")
            print(f"  stall {spread(stalls, 's')} = {spread([100 * s for s in share], '%')}")
            print(f"  {EVERY} steps with a save / without: {spread(ratio, 'x')}")
            print(f"  state: {size} bytes = {size / parameters:.3f} per parameter (12 are states)")
        dist.barrier()


def sharding(name: str, rounds: int, batch: int, rank: int) -> None:
    """Print seconds a step of each, and ratios to torch's."""
    levels: tuple[ZeroLevel, ...] = (1, 2, 3)
    steps = {f"zero {level}": deepspeed_step(name, level, batch) for level in levels}
    steps |= {kind: torch_step(name, kind, batch) for kind in ("ddp", "fsdp2")}
    for step, _ in steps.values():
        step()
    times: dict[str, list[float]] = {which: [] for which in steps}
    order = list(steps)
    for turn in range(rounds):
        for which in order[turn % len(order) :] + order[: turn % len(order)]:
            times[which].append(timed(steps[which][0]))
    if rank:
        return
    print(f"steps, {name}, {WORKERS} processes x {batch} images, {rounds} rounds:")
    for which, seconds in times.items():
        against = [
            f"{spread([a / b for a, b in zip(seconds, times[peer], strict=True)], 'x')} of {peer}"
            for peer in ("ddp", "fsdp2")
        ]
        print(f"  {which:<7} {spread(seconds, 's')}  {'  '.join(against)}")


def spread(values: list[float], unit: str) -> str:
    """Median (range)."""
    middle = statistics.median(values)
    return f"{middle:.3g} {unit} ({min(values):.3g} to {max(values):.3g})"


def _process(rank: int, meeting: str, arguments: argparse.Namespace) -> None:
    from cluster.engine import end_worker, prepare_worker

    torch.set_num_threads(1)
    prepare_worker(rank=rank, local_rank=rank, world_size=WORKERS, gpu=False, verbose=False)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORKERS)
    torch.manual_seed(0)
    if arguments.what in ("save", "all"):
        saving(arguments.model, arguments.steps, arguments.batch, rank)
    if arguments.what in ("zero", "all"):
        sharding("vit_ti16", arguments.rounds, arguments.batch, rank)
    end_worker()


def restarting(rounds: int) -> None:
    """Print seconds from the kill of a worker to a newer state."""
    import ray

    from pipelines.cli.ray_session import ray_session
    from storage.pack import pack
    from storage.pack.digits import Digits
    from tests.faults.support.injury import Stage, kill_trainer

    draw, seconds = random.Random(0), []
    with tempfile.TemporaryDirectory() as folder, ray_session(verbose=False, num_cpus=4):
        pack(Digits(), f"{folder}/data/digits")
        context = ray.get_runtime_context()
        stage = Stage(
            command=[
                *("pipelines/pretrain.py", "--run", "killed", "--stage.steps", "100000"),
                *("--stage.model.depth", "1", "--stage.global-batch", "16"),
                *("--place.data-root", f"{folder}/data", "--place.storage-root", f"{folder}/runs"),
                *("--place.mlflow-uri", f"sqlite:///{folder}/mlflow.db"),
                *("--place.save-every-steps", "5", "--place.log-every-steps", "5"),
                *("--place.max-failures", "-1"),
            ],
            env={"RAY_ADDRESS": context.gcs_address},
            attempts=Path(folder) / "runs" / "killed" / "pretrain",
            session=ray._private.worker._global_node.get_session_dir_path(),  # type: ignore[attr-defined]
            log=Path(folder) / "log",
        )
        stage.start()
        for _ in range(rounds):
            before = stage.saved()
            stage.wait("a state", lambda before=before: stage.saved() > before)
            time.sleep(2)
            before = stage.saved()
            assert kill_trainer(stage, draw), stage.log.read_text()[-2000:]
            began = time.perf_counter()
            while stage.saved() <= before + 5:  # that one may have been on its way
                assert stage.ended is None, stage.log.read_text()[-2000:]
                time.sleep(0.02)
            seconds.append(time.perf_counter() - began)
        assert stage.job is not None
        stage.job.terminate()
        stage.job.wait(60)
    print(f"from a killed worker to a newer state: {spread(seconds, 's')}, {rounds} kills")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    whats = ["all", "save", "zero", "restart"]
    parser.add_argument("what", nargs="?", choices=whats, default="all")
    parser.add_argument("--model", default="vit_s16", choices=sorted(vit.VARIANTS))
    parser.add_argument(
        "--steps", type=int, default=100, help="steps with saves, and as many without"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4, help="images per process")
    arguments = parser.parse_args()
    if arguments.what != "restart":
        with tempfile.TemporaryDirectory() as folder:
            spawn(_process, (f"{folder}/meeting", arguments), nprocs=WORKERS)
    if arguments.what in ("restart", "all"):
        restarting(arguments.rounds)


if __name__ == "__main__":
    main()
