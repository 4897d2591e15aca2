"""Build the DeepSpeed engine of one worker from plain torch parts, on a GPU or on the CPU.

DeepSpeed chooses its accelerator when it is first imported, so `prepare_worker` runs before that.
"""

import logging
import os
import socket
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn

from cluster.async_step import let_host_run_ahead, let_sums_run_ahead
from cluster.deepspeed_import import import_deepspeed
from cluster.errors import BadPlace
from cluster.frozen import keep_frozen, take_frozen
from cluster.lean_step import nothing, spare_host, spare_sums
from cluster.numa import stay_beside
from cluster.partitions import keep_moments
from cluster.resume_state import moments, prime_optimizer
from cluster.whole_tensors import spread_optimizer

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

LEAST_DRIVER = 580
"""Oldest major version of the NVIDIA driver for CUDA 13, which PyPI's torch 2.13 is built with."""


def prepare_worker(
    *, rank: int, local_rank: int, world_size: int, gpu: bool, verbose: bool
) -> torch.device:
    """Set the environment variables that DeepSpeed reads; return this worker's device.

    Args:
        rank: rank of this worker in the group.
        local_rank: rank of this worker on its node.
        world_size: number of workers in the group.
        gpu: whether this worker was given a GPU. The GPUs that torch sees do not count: Ray shows
            all GPUs of a machine to workers that have none.
        verbose: whether to show DeepSpeed's log.

    Raises:
        BadPlace: CUDA does not start here; the message has torch's reason.
    """
    device = _gpu(local_rank) if gpu else torch.device("cpu")
    # DeepSpeed uses LOCAL_RANK as its device. Ray assigns GPUs in the order of their ids as text
    # (0, 1, 10, ...) and ranks by number: from 11 GPUs per node on, the two differ.
    index = device.index if gpu else local_rank
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(index), WORLD_SIZE=str(world_size))
    os.environ["DS_ACCELERATOR"] = device.type
    if not verbose:
        os.environ.setdefault("DS_LOG_LEVEL", "warning")
        warnings.filterwarnings("ignore", module="deepspeed")
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return device


def end_worker() -> NoReturn:
    """Leave the process group and end this process, without Python's own end.

    DeepSpeed keeps the group's threads. One that frees a tensor while Python shuts down aborts the
    process: "terminate called without an active exception" (pytorch #179291). Ray ends its workers
    in this way too.
    """
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _gpu(local_rank: int) -> torch.device:
    """Select the GPU that Ray gave this process, or outside Ray the one of the local rank."""
    _check_cuda()
    import ray  # takes a second that workers on CPUs need not spend

    if ray.is_initialized() and ray.get_gpu_ids():
        from ray.train.torch import get_device

        device = get_device()
    else:
        device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    stay_beside(device)
    return device


def device_here(gpus: int | None) -> torch.device:
    """Return the device of a process that computes without Ray.

    Args:
        gpus: `workers.gpus`; None takes the GPU if torch can use one.

    Raises:
        BadPlace: `gpus` is 1, and CUDA does not start here.
    """
    if gpus == 0 or (gpus is None and not torch.cuda.is_available()):
        return torch.device("cpu")
    _check_cuda()
    return torch.device("cuda", 0)


def _check_cuda() -> None:
    reason = cuda_trouble()
    if reason:
        raise BadPlace(
            f"workers.gpus is 1, but torch cannot use CUDA on {socket.gethostname()}: {reason} -"
            f" torch {torch.__version__} needs an NVIDIA driver of version {LEAST_DRIVER} or newer;"
            " or set --place.workers.gpus 0"
        )


def cuda_trouble() -> str:
    """Torch's own message about why it cannot use CUDA on this machine; empty if it can."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # the latter: torch was built without CUDA
        return " ".join(str(error).split()).rstrip(".")
    return ""


def build_engine(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    *,
    average: bool = False,
) -> "DeepSpeedEngine":
    """Wrap model and optimizer. torch.distributed must be initialised (Ray Train does that).

    With `average` the engine keeps a Polyak average of the weights (`resume_state.update_average`).
    Parameters without `requires_grad` are not trained, and have no optimizer state.
    """
    import_deepspeed()
    import deepspeed
    import deepspeed.ops
    from deepspeed.runtime import bf16_optimizer
    from deepspeed.runtime.zero import stage_1_and_2

    if os.environ.get("DS_ACCELERATOR") == "cpu":
        # gloo alone: the shared-memory collectives are compiled on first use (a laptop may have no
        # compiler) and their flags keep the surviving workers waiting when one is killed.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # a report of the memory, which it prints several times per parameter group
    bf16_optimizer.see_memory_usage = nothing
    deepspeed.init_distributed(verbose=False)
    frozen = take_frozen(model)
    states = {
        parameter: moments(optimizer, group)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    if frozen:
        # DeepSpeed reduces a leaf module's gradients in its full backward hook. Where its input
        # needs no gradient, torch calls that before there are any, and the step fails.
        sharding = {**config["zero_optimization"]}
        sharding.pop("leaf_module", None)
        config = {**config, "zero_optimization": sharding}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    if not config["zero_optimization"].get("offload_optimizer"):
        # At levels 1 and 2 in bfloat16, DeepSpeed looks for NaN in each gradient and waits for the
        # answer, then does so again with their norm, which has it if one of them does. At level 3
        # it looks at the norm only, as here.
        sharded: Any = engine.optimizer
        sharded.check_overflow = nothing
        fused = all(group.get("fused") for group in optimizer.param_groups)
        if isinstance(sharded, stage_1_and_2.DeepSpeedZeroOptimizer):
            spare_host(sharded)
            if fused:
                let_host_run_ahead(sharded)
        elif isinstance(sharded, bf16_optimizer.BF16_Optimizer):
            spare_sums(sharded)
            if fused:
                let_sums_run_ahead(sharded)
    keep_frozen(engine, frozen)
    keep_moments(engine, states)
    prime_optimizer(engine, average=average)
    spread_optimizer(engine)
    return engine


def gradient_norm(engine: "DeepSpeedEngine") -> float | None:
    """Global gradient norm before clipping at the last step; None if this ZeRO level keeps none."""
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)
