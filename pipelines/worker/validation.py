"""Evaluation by the workers that train; the same numbers for any number of them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from cluster import resume_state
from pipelines.recipes.objectives import stage_network
from pipelines.recipes.stage import Stage
from pipelines.worker.linear_probe import probe_accuracy
from pipelines.worker.step import VALIDATION, hiding_keys, moved
from vit import normalize
from vit.objectives import Objective

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

Network = Callable[..., Tensor]
"""Called as `network(images, keys, *hints)`; see `vit.objectives.objective`."""
Show = Callable[[list[Tensor]], None]
"""Is given rows of images, each [m, 3, H, W]."""


@torch.no_grad()
def evaluate(
    stage: Stage,
    objective: Objective,
    engine: "DeepSpeedEngine",
    split: Callable[[], Iterable[Mapping[str, Tensor]]],
    *,
    device: torch.device,
    dtype: torch.dtype,
    micro_batch: int,
    average: bool,
    show: Show | None = None,
) -> dict[str, float]:
    """Return `val/...` metrics of the validation split, the same on every rank (collective).

    Args:
        stage: whose model it is.
        objective: of the stage.
        engine: what is trained; in training mode before and after.
        split: opens this rank's share of the split, from its beginning.
        device: of the model.
        dtype: of the forward pass.
        micro_batch: images at once.
        average: add `val_ema/...` of the Polyak average. It is evaluated in a plain model of its
            own, a whole one for every rank.
        show: is given the objective's picture of the first images, if it makes one.
    """

    def measured(prefix: str, network: Network, show: Show | None = None) -> dict[str, float]:
        values = measure(
            stage,
            objective,
            lambda images, *more: network(images.to(dtype), *more),
            split(),
            device=device,
            micro_batch=micro_batch,
            show=show,
        )
        return {f"{prefix}/{name}": value for name, value in values}

    began = time.perf_counter()
    engine.eval()
    metrics = measured("val", engine, show)
    if average:
        model = stage_network(stage, fresh=False).to(device, dtype).eval()
        resume_state.fill_with_average(engine, model)
        metrics |= measured("val_ema", model)
    engine.train()
    metrics["val/seconds"] = time.perf_counter() - began
    return metrics


def measure(
    stage: Stage,
    objective: Objective,
    network: Network,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    device: torch.device,
    micro_batch: int,
    show: Show | None = None,
) -> Iterator[tuple[str, float]]:
    """Means of the objective's numbers over all ranks' samples.

    Top-1 accuracy in [0, 1] and softmax cross-entropy in nats of a classifier. Where the labels are
    not learned, also `probe_accuracy`, which reads them from the features.

    Collective: every rank brings its share. Rows of label -1 are padding and do not count. Nothing
    waits for the device before the end.

    Args:
        stage: whose seed decides what is hidden.
        objective: what is measured.
        network: answers [m, ...] about normalised images [m, 3, H, W].
        batches: with `image` uint8 [b, H, W, 3] and int64 [b] `label`, `index`, `visit`.
        device: of the network.
        micro_batch: images at once.
        show: is given the objective's picture of the first images, if it makes one.
    """
    totals = torch.zeros(len(objective.measures) + 1, dtype=torch.float64, device=device)
    features: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in batches:
        labels = batch["label"].to(device)
        hiding = hiding_keys(batch, VALIDATION, stage, device) if objective.hides else None
        for at in range(0, len(labels), micro_batch):
            rows = slice(at, at + micro_batch)
            images = normalize(batch["image"][rows].to(device))
            asked = objective.ask(
                images,
                {"label": labels[rows]},
                None if hiding is None else hiding[rows],
                training=False,
            )
            answers = network(asked.images, *((None, *asked.hints) if asked.hints else ())).float()
            counts = labels[rows] >= 0
            numbers = objective.measure(answers, asked.targets).double()  # [m, measures]
            totals[:-1] += torch.where(counts[:, None], numbers, 0).sum(dim=0)
            totals[-1] += counts.sum()
            if show is not None:
                rows_of_images = objective.picture(asked, answers)
                if rows_of_images:
                    show(rows_of_images)
                show = None
            if objective.hides:
                positions = moved(batch["index"][rows], device)
                features.append((network(images).float(), labels[rows], positions))  # [m, D]
    dist.all_reduce(totals)
    *sums, samples = totals.tolist()
    yield from zip(objective.measures, (each / samples for each in sums), strict=True)
    yield "samples", samples
    if objective.hides:
        accuracy = probe_accuracy(*(torch.cat(column) for column in zip(*features, strict=True)))
        if accuracy is not None:
            yield "probe_accuracy", accuracy
