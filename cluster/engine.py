"""The DeepSpeed engine on one worker: built from plain torch parts, on a GPU or on the CPU.

DeepSpeed picks its accelerator when it is first imported, so `prepare_worker` runs before that.
"""

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cluster.resume_state import prime_optimizer

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


def prepare_worker(*, rank: int, local_rank: int, world_size: int, verbose: bool) -> torch.device:
    """Set what DeepSpeed reads from the environment; return this worker's device."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(local_rank), WORLD_SIZE=str(world_size))
    cuda = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
    if not verbose:
        os.environ.setdefault("DS_LOG_LEVEL", "warning")
        warnings.filterwarnings("ignore", module="deepspeed")
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def build_engine(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    *,
    average: bool = False,
) -> "DeepSpeedEngine":
    """Wrap model and optimizer; torch.distributed is initialised already (by Ray Train).

    With `average` there is a Polyak average of the weights (`resume_state.update_average`).
    """
    import deepspeed
    import deepspeed.ops

    # gloo alone: the shared-memory collectives are compiled on first use (a laptop may have no
    # compiler) and their flags keep the surviving workers waiting when one is killed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    prime_optimizer(engine, average=average)
    return engine


def gradient_norm(engine: "DeepSpeedEngine") -> float | None:
    """Global norm before clipping at the last step; None where this ZeRO level keeps none."""
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)
