"""One optimizer step over a rank's share of the global batch: ask, forward, backward, step."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cluster import resume_state
from cluster.batching import BatchPlan
from pipelines.recipes.stage import Stage
from pipelines.worker.guards import TrainedStep, usable_loss
from vit import drops, lr_at, normalize, sample_keys, set_lr
from vit.objectives import Objective

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine

TRAINING, VALIDATION = -1, -2
"""Stand in the place of the step in the keys that hide patches. Real steps count from 0."""


def train_step(
    batch: dict[str, Tensor],
    step: int,
    *,
    stage: Stage,
    objective: Objective,
    engine: "DeepSpeedEngine",
    plan: BatchPlan,
    device: torch.device,
    dtype: torch.dtype,
    show: Callable[[Tensor], None] | None = None,
) -> TrainedStep:
    """Train on the batch, in micro-batches (collective).

    Args:
        batch: columns of the b samples of this rank: `image` uint8 [b, H, W, 3], `label`, `index`
            and `epoch` [b].
        step: which step of the stage this is, from 0.
        stage: what is trained.
        objective: of the stage.
        engine: the network and its optimizer.
        plan: how the global batch is cut.
        device: of the network.
        dtype: of the forward and backward pass.
        show: is given the first micro-batch as the network sees it, [m, 3, H, W].
    """
    learning_rate = lr_at(step, stage.steps, stage.optim)
    set_lr(resume_state.inner_optimizer(engine).param_groups, learning_rate)

    def forward(images: Tensor, keys: Tensor | None, hints: tuple[Tensor, ...]) -> Tensor:
        """Answers [m, ...] about images [m, 3, H, W]; `keys` [m] decide what dropout drops."""
        images = images.to(dtype)
        return engine(images) if keys is None and not hints else engine(images, keys, *hints)

    total = torch.zeros((), device=device)
    keys = mask_keys(batch, step, stage, device)
    hiding = hiding_keys(batch, TRAINING, stage, device) if objective.hides else None
    micro = plan.micro
    for part in range(plan.accumulation):
        rows = {name: column[part * micro : (part + 1) * micro] for name, column in batch.items()}
        own, hidden = (
            None if each is None else each[part * micro : (part + 1) * micro]
            for each in (keys, hiding)
        )
        images = normalize(rows["image"].to(device))
        asked = objective.ask(images, rows, hidden, training=True)
        if part == 0 and show is not None:
            show(asked.images)
        answers = forward(asked.images, own, asked.hints).float()  # [m, ...]
        loss = objective.loss(answers, asked.targets)  # []
        total += loss.detach() / plan.accumulation
        if stage.nonfinite == "skip":
            blank = partial(forward, keys=None, hints=asked.hints)
            loss = usable_loss(loss, blank, asked.images)
        engine.backward(loss)
        engine.step()  # takes effect after the last micro-batch
    if stage.optim.ema_decay is not None:
        resume_state.update_average(engine, stage.optim.ema_decay)
    # The loss stays on the device until it is reported: asking for it would wait for the GPU.
    return TrainedStep(step + 1, learning_rate, total, batch["index"])


def mask_keys(
    batch: dict[str, Tensor], step: int, stage: Stage, device: torch.device
) -> Tensor | None:
    """Keys [b] of what dropout drops of each sample, if the model drops any; one copy a step.

    They know nothing of rank and micro-batch: however the global batch is cut, and after a resume,
    a sample meets the same masks.
    """
    if not drops(stage.model):
        return None
    keys = sample_keys(seed=stage.seed, step=step, epoch=batch["visit"], index=batch["index"])
    return moved(keys, device)


def hiding_keys(
    batch: Mapping[str, Tensor], purpose: int, stage: Stage, device: torch.device
) -> Tensor:
    """Keys [b] of what is hidden of each sample: by seed, epoch and index. One copy a step.

    `purpose` is TRAINING or VALIDATION. In the place of a step, these never meet the keys of
    dropout, nor each other.
    """
    keys = sample_keys(seed=stage.seed, step=purpose, epoch=batch["visit"], index=batch["index"])
    return moved(keys, device)


def moved(numbers: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; the host does not wait for it."""
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)
