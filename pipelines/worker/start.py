"""How a worker group begins: the engine with its first weights, the step to go on from, batches.

The weights come from the newest resume state, else from the stage's parent or checkpoint, else they
are fresh. Rank 0 reads them, and DeepSpeed gives them to the other ranks. A state holds those that
are not trained too: nothing else has to be there for a resume.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cluster import resume_state
from cluster.batching import BatchPlan
from cluster.engine import build_engine
from cluster.zero import zero_config
from pipelines.lineage.resume_states import damaged_states
from pipelines.lineage.source import open_source
from pipelines.recipes.objectives import stage_network
from pipelines.worker.best import Best
from pipelines.worker.feed import begun
from pipelines.worker.job import Job
from pipelines.worker.messages import Record
from pipelines.worker.survival import Survival
from storage.pieces import Pieces
from vit import build_optimizer, param_groups
from vit.compiled import compile_blocks
from vit.lora import is_adapter
from vit.objectives import is_pretext
from vit.trained import ALL

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

LEAF_CLASSES = ("vit.blocks.Block",)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the training loop begins with."""

    engine: "DeepSpeedEngine"
    step: int
    """Steps that are trained already."""
    batches: Iterator[dict[str, np.ndarray]]
    """This rank's batches from that step on."""
    records: list[Record]
    """Metrics that the resume state carries."""
    best: Best
    """The best evaluation of the steps before."""
    notes: tuple[str, ...]
    """Where the weights are from, a line for each thing. Rank 0 has them."""


def start(
    job: Job,
    plan: BatchPlan,
    survival: Survival,
    stream: Callable[[], Iterator[dict[str, np.ndarray]]],
    *,
    rank: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Start:
    """Build the engine with its first weights (collective).

    Args:
        job: the stage attempt.
        plan: how the global batch is cut.
        survival: opens the resume state, and is told that the worker is alive.
        stream: opens this rank's training batches.
        rank: of this process.
        device: that the model is moved to.
        dtype: of the forward and backward pass.
    """
    stage, place = job.stage, job.place
    survival.beat(0, "start")
    with survival.open_state() as saved:
        # Of the other ranks' first weights, and of those beside a state, nothing is kept.
        model = stage_network(stage, fresh=rank == 0 and saved is None)
        step = saved.manifest["step"] if saved is not None else 0
        # The stream starts while the engine is built: both take seconds.
        batches = begun(stream) if step < stage.steps else iter(())
        notes = fill(model, job, saved) if rank == 0 else ()
        survival.beat(0, "start")
        model.set_grad_checkpointing(place.recompute_activations)
        if stage.train != ALL:
            notes = (*notes, trained_note(model, stage.train))
        if place.compile:
            compile_blocks(model)
            notes = (*notes, "compiled blocks: the first step takes longer")
        gpu = device.type == "cuda"
        optimizer = build_optimizer(
            param_groups(model, stage.optim),
            stage.optim,
            fused=gpu and not place.zero.offload_optimizer,
        )
        config = zero_config(
            place.zero,
            plan,
            precision=stage.precision,
            clip_norm=stage.optim.clip_norm,
            gpu=gpu,
            leaf_classes=LEAF_CLASSES,
        )
        average = stage.optim.ema_decay is not None
        given = {}
        if dtype != torch.float32 and saved is None and rank == 0:
            given = {name: p.detach().clone() for name, p in model.named_parameters()}
        engine = build_engine(model.to(device), optimizer, config, average=average)
        survival.beat(0, "start")
        if dtype != torch.float32 and saved is None:
            resume_state.set_masters(engine, given)
        records: list[Record] = []
        best = Best(stage)
        if saved is not None:
            records = saved.manifest["told"]
            resume_state.restore(engine, saved, step=step)
            best.read(engine, saved)
            notes = (f"resumed after step {step}", *notes)
    return Start(engine=engine, step=step, batches=batches, records=records, best=best, notes=notes)


def fill(model: torch.nn.Module, job: Job, saved: Pieces | None) -> tuple[str, ...]:
    """Give a fresh model its first weights; return where they are from, a line for each thing."""
    if saved is not None:
        model.load_state_dict(resume_state.module_weights(saved))
        damaged = damaged_states(job.attempt_uri)
        return tuple(f"the state of step {at} is damaged: {why}" for at, why in damaged.items())
    if not job.start_uri:
        return ("fresh weights",)
    with open_source(job.start_uri) as source:
        tensors, notes = source.start_weights(job.stage)
    missing, unknown = model.load_state_dict(tensors, strict=False)
    assert not unknown, f"unknown {unknown}"
    added = [name for name in missing if is_pretext(name) or is_adapter(name)]
    assert missing == added, f"missing {missing}"
    if added:  # what objective and adapters need begins anew
        notes = (*notes, f"fresh weights in {len(added)} added tensors")
    return notes


def trained_note(model: torch.nn.Module, train: str) -> str:
    """How much of a model is trained: a line."""
    sizes = [(each.numel(), each.requires_grad) for each in model.parameters()]
    trained = sum(size for size, own in sizes if own)
    return f"train {train}: {trained:,} of {sum(size for size, _ in sizes):,} parameters"
