"""Pre-training without labels, then fine-tuning on few (section 4.6 of arXiv:2010.11929).

The same fine-tuning from random weights, and from weights that learned without labels on all
images. The fine-tunings of one seed see the same labelled images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from pipelines.campaigns.studies.base import CPU, CPU_MODEL, named
from pipelines.campaigns.studies.conclusions import against_series
from pipelines.campaigns.studies.study import Axis, Point, Sizes, Study
from pipelines.recipes import find_recipe
from pipelines.recipes.stage import Recipe, Stage
from storage.augment import AugmentConfig
from storage.selection import Selection
from vit import OptimConfig
from vit.objectives import Masked

SCRATCH = "from scratch"


def study(
    name: str,
    pretrainings: Mapping[str, Stage],
    tune: Stage,
    *,
    per_class: Sequence[int],
    seeds: int,
) -> Study:
    """Fine-tune from each pre-training and from none, at each number of labels a class."""
    stages: list[Stage] = []
    points: list[Point] = []
    for seed in range(seeds):
        parents = {series: named(each, series, seed=seed) for series, each in pretrainings.items()}
        stages += parents.values()
        for series in (SCRATCH, *pretrainings):
            for count in per_class:
                data = replace(tune.data, selection=Selection(per_class=count))
                parent = parents[series].name if series in parents else None
                stage = replace(tune, data=data, parent=parent)
                label = f"{series.replace(' ', '-')}-{count}"
                stages.append(named(stage, label, seed=seed))
                points.append(Point(stage=stages[-1].name, series=series, x=count, seed=seed))
    return Study(
        name="self-supervised",
        title="Does pre-training without labels help where labels are few?",
        source="section 4.6",
        recipe=Recipe(name=name, stages=tuple(stages)),
        points=tuple(points),
        few_shot=None,
        metric="val/accuracy",
        x=Axis(label="Labelled images per class", log=True),
        y=Axis(label="Top-1 accuracy [%]"),
        expected="masked patch prediction gives B/16 79.9 % on ImageNet, 2 points more than from"
        " scratch and 4 less than pre-training with labels",
        conclude=partial(against_series, base=SCRATCH, of="labels a class"),
    )


def _cpu(seeds: int = 3) -> Study:
    encoder = replace(CPU_MODEL, num_classes=0, head="linear")
    pretrain = replace(
        CPU,
        objective="mae",
        masked=Masked(decoder_width=64, decoder_depth=2, decoder_heads=4),
        model=encoder,
        data=replace(CPU.data, selection=Selection()),
        optim=replace(CPU.optim, weight_decay=0.05, schedule="cosine", warmup_steps=100),
        global_batch=128,
        steps=1500,
    )
    tune = replace(
        CPU,
        name="finetune",
        model=replace(encoder, num_classes=10),
        data=replace(CPU.data, val_selection=Selection(samples=5000), tail="carry"),
        optim=OptimConfig(
            peak_lr=1e-3, weight_decay=0.05, clip_norm=1.0, schedule="cosine", warmup_steps=30
        ),
        steps=300,
    )
    return study(
        "study-self-supervised-cpu",
        {
            "mae": pretrain,
            "masked-patch": replace(pretrain, objective="masked-patch", masked=Masked()),
        },
        tune,
        per_class=(10, 100),
        seeds=seeds,
    )


def _paper(seeds: int = 1) -> Study:
    tune = find_recipe("mae-b16").stages[1]
    colours = find_recipe("masked-patch-b16").stages[0]
    pixels = find_recipe("mae-b16").stages[0]
    learned = replace(colours, model=pixels.model, data=pixels.data)  # one encoder for both
    return study(
        "study-self-supervised-paper",
        {"mae": pixels, "masked-patch": learned},
        replace(tune, augment=AugmentConfig(randaugment_layers=2, randaugment_magnitude=9)),
        per_class=(13, 128),  # about 1 % and 10 % of ImageNet
        seeds=seeds,
    )


SIZES: Sizes = {"cpu": _cpu, "paper": _paper}
