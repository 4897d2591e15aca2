"""Whole steps of training: what the parts promise must hold of their sum."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import vit
from storage.augment import AugmentConfig, mix_draws

CONFIG = vit.ViTConfig(
    image_size=16, patch_size=4, width=32, depth=2, heads=2, mlp_dim=64, num_classes=4
)
OPTIM = vit.OptimConfig(peak_lr=1e-2, weight_decay=0.1, warmup_steps=2, schedule="cosine")
AUGMENT = AugmentConfig(mixup=0.2, cutmix=1.0)
# Losses of the first steps as they were on the day of writing; a change here is a change of
# initialisation, augmentation, loss, optimiser or schedule, and belongs into a commit's message.
GOLDEN = [1.3862944, 1.3862944, 1.3770583, 1.4370282, 1.3990259]


def batch_of(step: int, size: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (size, 16, 16, 3), dtype=torch.uint8, generator=generator)
    index = torch.arange(step * size, (step + 1) * size)
    return images, index % 4, index


def losses_of(config: vit.ViTConfig, *, steps: int, micro_batches: int = 1) -> list[float]:
    model = vit.build_model(config)
    optimizer = vit.build_optimizer(vit.param_groups(model, OPTIM), OPTIM)
    losses: list[float] = []
    for step in range(steps):
        vit.set_lr(optimizer.param_groups, vit.lr_at(step, 10, OPTIM))
        optimizer.zero_grad()
        total = 0.0
        for images, labels, index in zip(
            *(part.chunk(micro_batches) for part in batch_of(step)), strict=True
        ):
            keys = index.numpy()
            draws = mix_draws(AUGMENT, seed=0, epoch=np.zeros_like(keys), index=keys, side=16)
            pixels, targets = vit.mix_pairs(
                vit.normalize(images), vit.one_hot(labels, 4), torch.from_numpy(draws)
            )
            loss = vit.loss_fn("softmax", model(pixels), targets) / micro_batches
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
    return losses


def test_the_first_losses_are_those_of_the_day_of_writing():
    assert losses_of(CONFIG, steps=5) == pytest.approx(GOLDEN, abs=1e-5)


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_train_as_the_whole_batch_does(micro_batches):
    whole = losses_of(CONFIG, steps=5)
    assert losses_of(CONFIG, steps=5, micro_batches=micro_batches) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, pool="map", pos_embed="relative"),
        replace(CONFIG, pool="gap", pos_embed="sincos-2d", registers=2, dropout=0.05),
        replace(CONFIG, pos_embed="relative-bias"),
    ],
    ids=["token", "map-relative", "gap-sincos", "relative-bias"],
)
def test_a_batch_is_learned_by_heart(config):
    torch.manual_seed(0)  # dropout's
    model = vit.build_model(config)
    optim = replace(OPTIM, peak_lr=3e-3, warmup_steps=0, schedule="constant")
    optimizer = vit.build_optimizer(vit.param_groups(model, optim), optim)
    images, labels, _ = batch_of(0)
    pixels = vit.normalize(images)
    for _ in range(40):
        optimizer.zero_grad()
        vit.loss_fn("softmax", model(pixels), labels).backward()
        optimizer.step()
    assert vit.loss_fn("softmax", model(pixels), labels).item() < 0.1
