"""Evaluation by the workers that train; the same numbers for any number of them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from cluster import resume_state
from pipelines.recipes.stage import Stage
from vit import build_model, normalize

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


@torch.no_grad()
def evaluate(
    stage: Stage,
    engine: "DeepSpeedEngine",
    split: Callable[[], Iterable[Mapping[str, Tensor]]],
    *,
    device: torch.device,
    dtype: torch.dtype,
    micro_batch: int,
    average: bool,
) -> dict[str, float]:
    """Return `val/...` metrics of the validation split, the same on every rank (collective).

    Args:
        stage: whose model it is.
        engine: what is trained; in training mode before and after.
        split: opens this rank's share of the split, from its beginning.
        device: of the model.
        dtype: of the forward pass.
        micro_batch: images at once.
        average: add `val_ema/...` of the Polyak average. It is evaluated in a plain model of its
            own, a whole one for every rank.
    """

    def classify(prefix: str, network: Callable[[Tensor], Tensor]) -> dict[str, float]:
        values = classification(
            lambda images: network(images.to(dtype)),
            split(),
            device=device,
            micro_batch=micro_batch,
        )
        return {f"{prefix}/{name}": value for name, value in values}

    began = time.perf_counter()
    engine.eval()
    metrics = classify("val", engine)
    if average:
        model = build_model(stage.model, seed=stage.seed)
        resume_state.fill_with_average(engine, model)
        metrics |= classify("val_ema", model.to(device, dtype).eval())
    engine.train()
    metrics["val/seconds"] = time.perf_counter() - began
    return metrics


def classification(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[Mapping[str, Tensor]],
    *,
    device: torch.device,
    micro_batch: int,
) -> Iterator[tuple[str, float]]:
    """Top-1 accuracy in [0, 1] and mean softmax cross-entropy (nats) over all ranks' samples.

    Collective: every rank brings its share. Rows of label -1 are padding and do not count. Nothing
    waits for the device before the end.

    Args:
        forward: logits [m, classes] of normalised images [m, 3, H, W].
        batches: with `image` uint8 [b, H, W, 3] and `label` int64 [b].
        device: of the network.
        micro_batch: images at once.
    """
    totals = torch.zeros(3, dtype=torch.float64, device=device)  # correct, loss, samples
    for batch in batches:
        parts = (batch[name].to(device).split(micro_batch) for name in ("image", "label"))
        for images, labels in zip(*parts, strict=True):  # [m, H, W, 3], [m]
            logits = forward(normalize(images)).float()  # [m, classes]
            losses = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
            totals[0] += (logits.argmax(dim=1) == labels).sum()  # no class is -1
            totals[1] += losses.double().sum()  # 0 for a label of -1
            totals[2] += (labels >= 0).sum()
    dist.all_reduce(totals)
    correct, loss, samples = totals.tolist()
    yield "accuracy", correct / samples
    yield "loss", loss / samples
    yield "samples", samples
