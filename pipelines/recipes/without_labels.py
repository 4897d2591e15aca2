"""Recipes that pre-train without labels, then fine-tune.

`mae-b16`, `-l16`, `-h14`: tables 8 and 9 of arXiv:2111.06377, 800 epochs of ImageNet.
`masked-patch-b16`: appendix B.1.2 of arXiv:2010.11929, a million steps of JFT-300M.
`digits-mae`, `digits-masked-patch`: the demo's digits, in minutes on a laptop.

On images of one's own: `pipelines/pretrain.py --recipe mae-b16 --data NAME --epochs 400`.
"""

from dataclasses import replace

from pipelines.recipes import digits
from pipelines.recipes.data import Data
from pipelines.recipes.paper import BATCH, finetune, for_dataset, steps_of
from pipelines.recipes.stage import Recipe, Stage
from storage.augment import AugmentConfig
from storage.selection import Selection
from vit import VARIANTS, OptimConfig, ViTConfig
from vit.objectives import Masked

_MAE_FINETUNE_BATCH = 1024


def _encoder(variant: str) -> ViTConfig:
    model = VARIANTS[variant]
    assert isinstance(model, ViTConfig)
    return replace(model, num_classes=0)


def mae(variant: str, *, tuning_epochs: float, drop_path: float = 0.1) -> Recipe:
    """Pre-train a variant as a masked autoencoder on ImageNet-1k, and fine-tune it there."""
    encoder = replace(_encoder(variant), pos_embed="sincos-2d", gelu="exact")
    pretrain = Stage(
        name="pretrain",
        model=encoder,
        data=Data(dataset="imagenet1k", area=(0.2, 1.0)),
        objective="mae",
        optim=OptimConfig(
            peak_lr=1.5e-4 * BATCH / 256,
            weight_decay=0.05,
            betas=(0.9, 0.95),
            schedule="cosine",
            warmup_steps=steps_of("imagenet1k", epochs=40),
        ),
        global_batch=BATCH,
        steps=steps_of("imagenet1k", epochs=800),
        eval_every_steps=steps_of("imagenet1k", epochs=20),
        precision="bfloat16",
    )
    steps = steps_of("imagenet1k", epochs=tuning_epochs, batch=_MAE_FINETUNE_BATCH)
    tuned = replace(
        pretrain,
        name="finetune",
        parent="pretrain",
        objective="classify",
        model=replace(encoder, num_classes=1000, drop_path=drop_path),
        data=Data(dataset="imagenet1k", area=(0.08, 1.0)),
        augment=AugmentConfig(
            mixup=0.8,
            cutmix=1.0,
            randaugment_layers=2,
            randaugment_magnitude=9,
            random_erasing=0.25,
        ),
        label_smoothing=0.1,
        optim=OptimConfig(
            peak_lr=1e-3 * _MAE_FINETUNE_BATCH / 256,
            weight_decay=0.05,
            layer_decay=0.75,
            schedule="cosine",
            warmup_steps=steps_of("imagenet1k", epochs=5, batch=_MAE_FINETUNE_BATCH),
        ),
        global_batch=_MAE_FINETUNE_BATCH,
        steps=steps,
        eval_every_steps=steps_of("imagenet1k", epochs=1, batch=_MAE_FINETUNE_BATCH),
    )
    return Recipe(name=f"mae-{variant.removeprefix('vit_')}", stages=(pretrain, tuned))


def masked_patch() -> Recipe:
    """Pre-train B/16 by the mean colours of corrupted patches, and fine-tune it on ImageNet."""
    pretrain = Stage(
        name="pretrain",
        model=_encoder("vit_b16"),
        data=Data(dataset="jft300m"),
        objective="masked-patch",
        optim=OptimConfig(peak_lr=2e-4, weight_decay=0.1, schedule="cosine", warmup_steps=10_000),
        global_batch=BATCH,
        steps=1_000_000,
        eval_every_steps=10_000,
        precision="bfloat16",
    )
    labelled = replace(
        pretrain, objective="classify", model=for_dataset(VARIANTS["vit_b16"], "imagenet1k")
    )
    tuned = replace(finetune(labelled, "imagenet1k"), parent="pretrain")
    return Recipe(name="masked-patch-b16", stages=(pretrain, tuned))


def of_digits(objective: str) -> Recipe:
    """Pre-train on all digits without their labels, then fine-tune on ten of each class."""
    assert objective in ("mae", "masked-patch")
    pretrain = replace(
        digits.PRETRAIN,
        objective=objective,
        masked=Masked(decoder_width=64, decoder_depth=2, decoder_heads=4)
        if objective == "mae"
        else Masked(),
        model=replace(digits.UPSCALE.model, num_classes=0, head="linear"),
        data=replace(digits.DATA, selection=Selection()),
        optim=replace(digits.PRETRAIN.optim, weight_decay=0.05, schedule="cosine"),
        steps=600,
        eval_every_steps=200,
    )
    tuned = replace(digits.FINETUNE, parent="pretrain")
    return Recipe(name=f"digits-{objective}", stages=(pretrain, tuned))


WITHOUT_LABELS = (
    mae("vit_b16", tuning_epochs=100),
    mae("vit_l16", tuning_epochs=50),
    mae("vit_h14", tuning_epochs=50, drop_path=0.2),
    masked_patch(),
    of_digits("mae"),
    of_digits("masked-patch"),
)
