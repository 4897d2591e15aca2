"""One optimizer step over a rank's share of the global batch: mix, forward, backward, step."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cluster import resume_state
from cluster.batching import BatchPlan
from pipelines.recipes.stage import Stage
from pipelines.worker.guards import TrainedStep, usable_loss
from vit import drops, loss_fn, lr_at, mix_pairs, normalize, one_hot, sample_keys, set_lr

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine


def train_step(
    batch: dict[str, Tensor],
    step: int,
    *,
    stage: Stage,
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
        engine: the network and its optimizer.
        plan: how the global batch is cut.
        device: of the network.
        dtype: of the forward and backward pass.
        show: is given the first micro-batch as the network sees it, [m, 3, H, W].
    """
    learning_rate = lr_at(step, stage.steps, stage.optim)
    set_lr(resume_state.inner_optimizer(engine).param_groups, learning_rate)

    def forward(images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Logits [m, classes] of images [m, 3, H, W]; `keys` [m] decide what dropout drops."""
        images = images.to(dtype)
        return engine(images) if keys is None else engine(images, keys)

    total = torch.zeros((), device=device)
    keys = mask_keys(batch, step, stage, device)
    micro = plan.micro
    for part in range(plan.accumulation):
        rows = {name: column[part * micro : (part + 1) * micro] for name, column in batch.items()}
        images, targets = network_input(rows, stage, device)
        if part == 0 and show is not None:
            show(images)
        own = None if keys is None else keys[part * micro : (part + 1) * micro]
        logits = forward(images, own).float()  # [m, classes]
        loss = loss_fn(stage.loss, logits, targets, label_smoothing=stage.label_smoothing)  # []
        total += loss.detach() / plan.accumulation
        if stage.nonfinite == "skip":
            loss = usable_loss(loss, forward, images)
        engine.backward(loss)
        engine.step()  # takes effect after the last micro-batch
    if stage.optim.ema_decay is not None:
        resume_state.update_average(engine, stage.optim.ema_decay)
    # The loss stays on the device until it is reported: asking for it would wait for the GPU.
    return TrainedStep(step + 1, learning_rate, total, batch["index"])


def network_input(
    rows: dict[str, Tensor], stage: Stage, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Images [m, 3, H, W] and targets of samples: labels [m], or if mixed [m, classes]."""
    images, labels = normalize(rows["image"].to(device)), rows["label"].to(device)
    if not stage.augment.mixes:
        return images, labels
    targets = one_hot(labels, stage.model.num_classes)
    return mix_pairs(images, targets, rows["mix"].to(device))


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
    return keys.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else keys
