"""Resolution: pre-train at a low one, fine-tune at higher ones (section 3.2 of arXiv:2010.11929).

The patches keep their size, so the grid grows and the position table is resized.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pipelines.campaigns.studies.base import CPU, CPU_MODEL, named
from pipelines.campaigns.studies.conclusions import against_first
from pipelines.campaigns.studies.study import Axis, Point, Sizes, Study
from pipelines.recipes.paper import ROWS, finetune
from pipelines.recipes.stage import Recipe, Stage
from storage.selection import Selection
from vit import OptimConfig


def study(
    name: str, pretrain: Stage, tune: Stage, *, image_sizes: Sequence[int], seeds: int
) -> Study:
    """One pre-training a seed, fine-tuned at each image size; accuracy of the fine-tuned."""
    stages, points = [], []
    for seed in range(seeds):
        before = named(pretrain, "pretrain", seed=seed)
        stages.append(before)
        for size in image_sizes:
            model = replace(tune.model, image_size=size)
            stage = replace(tune, parent=before.name, model=model)
            stages.append(named(stage, f"finetune-{size}px", seed=seed))
            points.append(
                Point(
                    stage=stages[-1].name,
                    series=f"pre-trained at {pretrain.image_size} px",
                    x=size,
                    seed=seed,
                )
            )
    return Study(
        name="resolution",
        title="Does fine-tuning at a higher resolution than pre-training help?",
        source="section 3.2",
        recipe=Recipe(name=name, stages=tuple(stages)),
        points=tuple(points),
        few_shot=None,
        metric="val/accuracy",
        x=Axis(label="Fine-tuning resolution [px]"),
        y=Axis(label="Top-1 accuracy [%]"),
        expected="it is often beneficial to fine-tune at a higher resolution than pre-training's",
        conclude=partial(
            against_first,
            first=f"fine-tuning at pre-training's {image_sizes[0]} px",
            others="the higher resolutions",
        ),
    )


def _cpu(seeds: int = 2) -> Study:
    low = replace(CPU_MODEL, image_size=16, patch_size=4)
    pretrain = replace(CPU, model=low)
    tune = replace(
        CPU,
        name="finetune",
        reset_head=True,
        model=replace(low, num_classes=10, head="linear"),
        data=replace(
            CPU.data,
            selection=Selection(per_class=100),
            val_selection=Selection(samples=5000),
            tail="carry",
        ),
        # Table 4: SGD, no weight decay, clip 1, cosine
        optim=OptimConfig(name="sgd", peak_lr=0.03, clip_norm=1.0, warmup_steps=20),
        steps=200,
    )
    return study("study-resolution-cpu", pretrain, tune, image_sizes=(16, 20, 24, 28), seeds=seeds)


def _paper(seeds: int = 1) -> Study:
    pretrain = ROWS["vit-b16-jft"]
    return study(
        "study-resolution-paper",
        pretrain,
        finetune(pretrain, "imagenet1k"),
        image_sizes=(224, 320, 384, 512),
        seeds=seeds,
    )


SIZES: Sizes = {"cpu": _cpu, "paper": _paper}
