"""The paper's recipes: Tables 3 and 4 of arXiv:2010.11929, and the plain baseline of 2205.01580.

Each row is derived from another row and names only what the paper changes. Steps are computed from
epochs, images of the dataset and global batch. Datasets are folders of `place.data_root`:
`imagenet1k`, `imagenet21k`, `jft300m`, `cifar10`, ... JFT-300M is not public: without it, use the
ImageNet-21k rows.
"""

from dataclasses import dataclass, replace

from pipelines.recipes.data import Data
from pipelines.recipes.stage import Recipe, Stage
from storage.augment import AugmentConfig
from vit import VARIANTS, BiTConfig, Config, OptimConfig, ViTConfig

IMAGES = {"imagenet1k": 1_281_167, "imagenet21k": 14_197_122, "jft300m": 303_000_000}
CLASSES = {"imagenet1k": 1000, "imagenet21k": 21_843, "jft300m": 18_291}
BATCH = 4096


def steps_of(dataset: str, *, epochs: float, batch: int = BATCH) -> int:
    """Return the optimizer steps of `epochs` epochs, counting only full batches."""
    return int(epochs * (IMAGES[dataset] // batch))


def for_dataset(model: Config, dataset: str) -> Config:
    """Give a variant the dataset's classes and the pre-training head.

    A ViT gets the MLP head and, for sigmoid losses, the initial head bias of big_vision.
    """
    if isinstance(model, BiTConfig):
        return replace(model, num_classes=CLASSES[dataset])
    bias = 0.0 if dataset == "imagenet1k" else -10.0
    return replace(model, num_classes=CLASSES[dataset], head="mlp", head_bias_init=bias)


# Table 3, first row. Adam b1 0.9, b2 0.999; decoupled decay on kernels only.
JFT_B16 = Stage(
    name="pretrain",
    model=for_dataset(VARIANTS["vit_b16"], "jft300m"),
    data=Data(dataset="jft300m"),
    loss="sigmoid",
    optim=OptimConfig(peak_lr=8e-4, weight_decay=0.1, schedule="linear", warmup_steps=10_000),
    global_batch=BATCH,
    steps=steps_of("jft300m", epochs=7),
    eval_every_steps=10_000,
    precision="bfloat16",
)


def jft(variant: str, *, peak_lr: float, epochs: float = 7) -> Stage:
    """Make a row of Table 3 on JFT-300M; rows differ in model, learning rate and epochs."""
    return replace(
        JFT_B16,
        model=for_dataset(VARIANTS[variant], "jft300m"),
        optim=replace(JFT_B16.optim, peak_lr=peak_lr),
        steps=steps_of("jft300m", epochs=epochs),
    )


def with_dropout(model: Config, rate: float) -> Config:
    """Set the dropout rate of a ViT; BiT has no dropout."""
    return replace(model, dropout=rate) if isinstance(model, ViTConfig) else model


def imagenet21k(variant: str, *, epochs: float, end_lr: float = 0.0) -> Stage:
    """Make a row of Table 3 on ImageNet-21k: decay 0.03, dropout 0.1, learning rate 1e-3."""
    return replace(
        JFT_B16,
        model=with_dropout(for_dataset(VARIANTS[variant], "imagenet21k"), 0.1),
        data=Data(dataset="imagenet21k"),
        optim=replace(JFT_B16.optim, peak_lr=1e-3, weight_decay=0.03, end_lr=end_lr),
        steps=steps_of("imagenet21k", epochs=epochs),
    )


def imagenet1k(variant: str) -> Stage:
    """Make a row of Table 3 on ImageNet-1k: cosine, decay 0.3, dropout 0.1, clipping at norm 1."""
    return replace(
        JFT_B16,
        model=with_dropout(for_dataset(VARIANTS[variant], "imagenet1k"), 0.1),
        data=Data(dataset="imagenet1k"),
        loss="softmax",
        optim=replace(
            JFT_B16.optim, peak_lr=3e-3, weight_decay=0.3, schedule="cosine", clip_norm=1.0
        ),
        steps=steps_of("imagenet1k", epochs=300),
    )


@dataclass(frozen=True)
class Task:
    """A row of Table 4."""

    classes: int | None
    """Number of classes; None for a suite, whose tasks differ."""
    steps: int
    sweep: tuple[float, ...]
    """Learning rates that the paper sweeps; the recipe uses the middle one."""
    warmup_steps: int = 500


TASKS = {
    "imagenet1k": Task(1000, 20_000, (0.003, 0.01, 0.03, 0.06)),
    "cifar10": Task(10, 10_000, (0.001, 0.003, 0.01, 0.03)),
    "cifar100": Task(100, 10_000, (0.001, 0.003, 0.01, 0.03)),
    "pets": Task(37, 500, (0.001, 0.003, 0.01, 0.03), warmup_steps=100),
    "flowers": Task(102, 500, (0.001, 0.003, 0.01, 0.03), warmup_steps=100),
    "vtab": Task(None, 2_500, (0.01,)),
}


def upscale(pretrain: Stage, *, image_size: int) -> Stage:
    """Change the resolution as the paper does: resize the position table, without training."""
    return replace(
        pretrain,
        name="upscale",
        parent="pretrain",
        model=replace(pretrain.model, image_size=image_size),
        optim=replace(pretrain.optim, warmup_steps=0),
        steps=0,
        eval_every_steps=0,
    )


def finetune(
    pretrain: Stage, task: str, *, image_size: int = 384, classes: int | None = None
) -> Stage:
    """Make a row of Table 4: SGD momentum 0.9, batch 512, clip 1, cosine, no decay, linear head."""
    row = TASKS[task]
    wanted = classes or row.classes
    assert wanted is not None, f"{task} is a suite: pass the classes of the task"
    model = replace(pretrain.model, num_classes=wanted, image_size=image_size)
    if isinstance(model, ViTConfig):
        model = replace(model, head="linear", head_bias_init=0.0, dropout=0.0)
    return replace(
        pretrain,
        name="finetune",
        parent="upscale",
        reset_head=True,
        model=model,
        data=Data(dataset=task),
        loss="softmax",
        optim=OptimConfig(
            name="sgd",
            peak_lr=row.sweep[len(row.sweep) // 2],
            momentum=0.9,
            clip_norm=1.0,
            schedule="cosine",
            warmup_steps=row.warmup_steps,
        ),
        global_batch=512,
        steps=row.steps,
        eval_every_steps=row.steps // 10,
    )


def polyak(stage: Stage) -> Stage:
    """Average the weights with factor 0.9999, as for the ImageNet headline result."""
    return replace(stage, optim=replace(stage.optim, ema_decay=0.9999))


# arXiv:2205.01580: 76.5 % after 90 epochs, 80 % after 300.
BASELINE_S16 = Stage(
    name="pretrain",
    model=replace(VARIANTS["vit_s16"], pool="gap", pos_embed="sincos-2d", num_classes=1000),
    data=Data(dataset="imagenet1k"),
    augment=AugmentConfig(mixup=0.2, randaugment_layers=2, randaugment_magnitude=10),
    optim=OptimConfig(
        peak_lr=1e-3, weight_decay=0.1, clip_norm=1.0, schedule="cosine", warmup_steps=10_000
    ),
    global_batch=1024,
    steps=steps_of("imagenet1k", epochs=90, batch=1024),
    eval_every_steps=5_000,
    precision="bfloat16",
)

ROWS: dict[str, Stage] = {
    "vit-b16-jft": JFT_B16,
    "vit-b32-jft": jft("vit_b32", peak_lr=8e-4),
    "vit-l32-jft": jft("vit_l32", peak_lr=6e-4),
    "vit-l16-jft": jft("vit_l16", peak_lr=4e-4),
    "vit-l16-jft-14ep": jft("vit_l16", peak_lr=4e-4, epochs=14),
    "vit-h14-jft": jft("vit_h14", peak_lr=3e-4, epochs=14),
    "bit-r50x1-jft": jft("bit_r50x1", peak_lr=1e-3),
    "bit-r50x2-jft": jft("bit_r50x2", peak_lr=1e-3),
    "bit-r101x1-jft": jft("bit_r101x1", peak_lr=8e-4),
    "bit-r152x1-jft": jft("bit_r152x1", peak_lr=6e-4),
    "bit-r152x2-jft": jft("bit_r152x2", peak_lr=6e-4),
    "r50-vit-b32-jft": jft("r50_vit_b32", peak_lr=8e-4),
    "r50-vit-b16-jft": jft("r50_vit_b16", peak_lr=8e-4),
    "r50-vit-l32-jft": jft("r50_vit_l32", peak_lr=2e-4),
    "r50-vit-l16-jft": jft("r50_vit_l16", peak_lr=4e-4),
    "r50-vit-l16-jft-14ep": jft("r50_vit_l16", peak_lr=4e-4, epochs=14),
    "vit-b16-imagenet21k": imagenet21k("vit_b16", epochs=90, end_lr=1e-5),
    "vit-b32-imagenet21k": imagenet21k("vit_b32", epochs=90, end_lr=1e-5),
    "vit-l16-imagenet21k": imagenet21k("vit_l16", epochs=30),
    "vit-l16-imagenet21k-90ep": imagenet21k("vit_l16", epochs=90),
    "vit-l32-imagenet21k": imagenet21k("vit_l32", epochs=30),
    "vit-l32-imagenet21k-90ep": imagenet21k("vit_l32", epochs=90),
    "vit-b16-imagenet1k": imagenet1k("vit_b16"),
    "vit-b32-imagenet1k": imagenet1k("vit_b32"),
    "vit-l16-imagenet1k": imagenet1k("vit_l16"),
    "vit-l32-imagenet1k": imagenet1k("vit_l32"),
}
# Rows whose ImageNet headline result uses a larger image (px) and averaged weights.
HEADLINE = {"vit-l16-jft": 512, "vit-l16-jft-14ep": 512, "vit-h14-jft": 518}


def paper_recipe(row: str, task: str = "imagenet1k") -> Recipe:
    """Make a recipe: pre-train a row of Table 3, upscale, fine-tune on a task of Table 4."""
    pretrain = ROWS[row]
    # H/14 uses 392 px instead of 384, a multiple of its patches of 14 px
    size = 392 if pretrain.model == ROWS["vit-h14-jft"].model else 384
    headline = task == "imagenet1k" and row in HEADLINE
    size = HEADLINE[row] if headline else size
    tuned = finetune(pretrain, task, image_size=size)
    return Recipe(
        name=row if task == "imagenet1k" else f"{row}-to-{task}",
        stages=(
            pretrain,
            upscale(pretrain, image_size=size),
            polyak(tuned) if headline else tuned,
        ),
    )


BASELINE = Recipe(name="vit-s16-baseline", stages=(BASELINE_S16,))
BASELINE_300 = Recipe(
    name="vit-s16-baseline-300ep",
    stages=(replace(BASELINE_S16, steps=steps_of("imagenet1k", epochs=300, batch=1024)),),
)
PAPER = {row: paper_recipe(row) for row in ROWS}
