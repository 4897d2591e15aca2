"""DeiT-III (arXiv:2204.07118) on ImageNet-1k: `deit3-s16`, `-b16`, `-l16`, `-h14`.

Numbers of the paper's Table 1, column "ImageNet-1k ours": 800 epochs, batches of 2048, LAMB at 3e-3
with decay 0.02, clipping at 1, five epochs of warm-up, cosine, stochastic depth at one rate in all
blocks, LayerScale from 1e-4, binary cross-entropy, mixup 0.8, cutmix 1, 3-Augment, colour jitter
0.3. B, L and H see small images (192, 192 and 154 px), then 20 epochs at 224 px. Image sizes, rates
of stochastic depth and the 20 epochs are those of the commands in the authors' README_revenge.md,
whose decay is 0.05, and whose rate for S is 4e-3.

What differs: an epoch draws every image once (no repeated augmentation); pixels are scaled to
[-1, 1] and not by ImageNet's deviation; first weights and RandAugment are big_vision's; mixup and
cutmix are drawn per pair, not per batch. Of the authors' 160 px for H its patches of 14 px cover
154.
"""

from dataclasses import replace

from pipelines.recipes.data import Data
from pipelines.recipes.paper import steps_of
from pipelines.recipes.stage import Recipe, Stage
from storage.augment import AugmentConfig
from vit import VARIANTS, OptimConfig, ViTConfig

_BATCH, _FINETUNE_BATCH = 2048, 512


def pretrain(variant: str, *, image_size: int, drop_path: float) -> Stage:
    """Train a variant from scratch, at an image size and a rate of stochastic depth."""
    model = VARIANTS[variant]
    assert isinstance(model, ViTConfig)
    return Stage(
        name="pretrain",
        model=replace(
            model,
            image_size=image_size,
            layer_scale_init=1e-4,
            drop_path=drop_path,
            drop_path_constant=True,
        ),
        data=Data(dataset="imagenet1k", area=(0.08, 1.0), eval_fraction=1.0),
        augment=AugmentConfig(mixup=0.8, cutmix=1.0, three_augment=True, color_jitter=0.3),
        loss="bce",
        optim=OptimConfig(
            name="lamb",
            peak_lr=3e-3,
            weight_decay=0.02,
            clip_norm=1.0,
            schedule="cosine",
            warmup_steps=steps_of("imagenet1k", epochs=5, batch=_BATCH),
            end_lr=1e-5,
        ),
        global_batch=_BATCH,
        steps=steps_of("imagenet1k", epochs=800, batch=_BATCH),
        eval_every_steps=steps_of("imagenet1k", epochs=10, batch=_BATCH),
        precision="bfloat16",
    )


def finetune(before: Stage, *, drop_path: float) -> Stage:
    """Train the result for 20 more epochs at 224 px: AdamW at 1e-5 throughout after warm-up."""
    return replace(
        before,
        name="finetune",
        parent="pretrain",
        model=replace(before.model, image_size=224, drop_path=drop_path),
        augment=AugmentConfig(mixup=0.8, cutmix=1.0, randaugment_layers=2, randaugment_magnitude=9),
        loss="softmax",
        label_smoothing=0.1,
        optim=OptimConfig(
            peak_lr=1e-5,
            weight_decay=0.1,
            schedule="constant",  # the authors' cosine ends at 1e-5 too
            warmup_steps=steps_of("imagenet1k", epochs=5, batch=_FINETUNE_BATCH),
        ),
        global_batch=_FINETUNE_BATCH,
        steps=steps_of("imagenet1k", epochs=20, batch=_FINETUNE_BATCH),
        eval_every_steps=steps_of("imagenet1k", epochs=1, batch=_FINETUNE_BATCH),
    )


_B16 = pretrain("deit3_b16", image_size=192, drop_path=0.2)
_L16 = pretrain("deit3_l16", image_size=192, drop_path=0.45)
_H14 = pretrain("deit3_h14", image_size=154, drop_path=0.6)

DEIT3 = (
    Recipe(name="deit3-s16", stages=(pretrain("deit3_s16", image_size=224, drop_path=0.05),)),
    Recipe(name="deit3-b16", stages=(_B16, finetune(_B16, drop_path=0.2))),
    Recipe(name="deit3-l16", stages=(_L16, finetune(_L16, drop_path=0.45))),
    Recipe(name="deit3-h14", stages=(_H14, finetune(_H14, drop_path=0.55))),
)
