"""Evaluation by the workers that train; the same numbers for any number of them."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from cluster import resume_state
from pipelines.recipes.stage import Stage
from vit import build_model, normalize

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


@torch.no_grad()
def evaluate(
    stage: Stage,
    engine: "DeepSpeedEngine",
    split: Callable[[], Iterable[dict[str, Any]]],
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
    batches: Iterable[dict[str, Any]],
    *,
    device: torch.device,
    micro_batch: int,
) -> Iterator[tuple[str, float]]:
    """Top-1 accuracy in [0, 1] and mean softmax cross-entropy (nats) over all ranks' samples.

    Collective: every rank brings its share. Rows of label -1 are padding and do not count.
    """
    totals = torch.zeros(3, dtype=torch.float64, device=device)  # correct, loss, samples
    for batch in batches:
        images = torch.from_numpy(batch["image"])  # [b, H, W, 3]
        labels = torch.from_numpy(batch["label"])  # [b]
        for x, y in zip(images.split(micro_batch), labels.split(micro_batch), strict=True):
            y = y.to(device)
            logits = forward(normalize(x.to(device))).float()  # [m, classes]
            known = y >= 0
            losses = torch.nn.functional.cross_entropy(logits, y, ignore_index=-1, reduction="none")
            totals[0] += (logits.argmax(dim=1) == y)[known].sum()
            totals[1] += losses[known].double().sum()
            totals[2] += known.sum()
    dist.all_reduce(totals)
    correct, loss, samples = totals.tolist()
    yield "accuracy", correct / samples
    yield "loss", loss / samples
    yield "samples", samples
