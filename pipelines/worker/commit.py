"""Hand the weights to the next stage, once: bytes first, manifest last."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from cluster import resume_state
from cluster.batching import BatchPlan
from cluster.partitions import trained
from cluster.settings import Place
from pipelines.lineage.manifest import read_manifest
from pipelines.worker.best import Chosen
from pipelines.worker.collectives import of_first_rank
from pipelines.worker.job import Job
from pipelines.worker.messages import Committed
from pipelines.worker.utilisation import device_name
from storage import weights
from storage.errors import WeightsExist
from vit.lora import lora_of, merged
from vit.objectives import is_pretext

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


def committed_before(job: Job, *, rank: int, device: torch.device) -> Committed | None:
    """Return the commit of the attempt, if there is one (collective): nothing is left to train.

    The group before this one may have lost a worker between its commit and its end. Of the messages
    that the ranks return, the one of rank 0 counts.
    """
    found = read_manifest(job.attempt_uri) if rank == 0 else None
    if not of_first_rank(int(found is not None), device):
        return None
    manifest = found or job.manifest
    return Committed(step=manifest.step, metrics=manifest.metrics, best=manifest.best, earlier=True)


def commit(
    job: Job,
    engine: "DeepSpeedEngine",
    chosen: Chosen,
    *,
    rank: int,
    arithmetic: Mapping[str, Any],
) -> Committed:
    """Commit the weights, and the average if the recipe keeps one (collective).

    Adapters are added to the weights beside them; with the head, they are kept apart as well. What
    only the objective needed, as the decoder of `mae`, is left out.

    `arithmetic` goes into the manifest. The driver drops the resume states once it has heard of the
    commit.
    """
    stage = job.stage
    gathered = resume_state.gather_weights(engine)
    tensors = _of_encoder(gathered)
    adapters: dict[str, Tensor] | None = None
    if lora_of(stage.train):
        names = {name for name, _ in trained(engine) if not is_pretext(name)}
        adapters = {name: each for name, each in gathered.items() if name in names}
    average: dict[str, Tensor] | None = None
    if stage.optim.ema_decay is not None:
        average = _of_encoder(resume_state.gather_weights(engine, resume_state.AVERAGE))
    earlier = False
    if rank == 0:
        manifest = replace(
            job.manifest,
            step=chosen.step,
            metrics=chosen.metrics,
            best=chosen.best,
            arithmetic=arithmetic,
        )
        try:
            lineage = manifest.to_json()
            weights.commit(job.attempt_uri, tensors, lineage, ema=average, adapters=adapters)
        except WeightsExist:  # a group that was given up for dead was faster: the same training
            earlier = True
    dist.barrier()
    return Committed(step=chosen.step, metrics=chosen.metrics, best=chosen.best, earlier=earlier)


def arithmetic_of(place: Place, plan: BatchPlan, device: torch.device) -> dict[str, Any]:
    """What decides the last bits of the weights beside the stage."""
    return {
        "device": device_name(device),
        "workers": plan.workers,
        "micro_batch": plan.micro,
        "zero_level": place.zero.level,
        "offload_optimizer": place.zero.offload_optimizer,
        "compile": place.compile,
        "recompute_activations": place.recompute_activations,
        "deterministic": place.deterministic,
    }


def _of_encoder(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each for name, each in merged(tensors).items() if not is_pretext(name)}
