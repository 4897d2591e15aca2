"""Data size: the same pre-training on nested random subsets (Figure 4 of arXiv:2010.11929).

Hyperparameters are the same at every size and regularisation is not raised, as in the paper. Each
stage is evaluated as it trains on images held out of the training split; `best/accuracy` is early
stopping's. Few-shot regression is fitted to the weights at the end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipelines.campaigns.studies.base import (
    CPU,
    CPU_CLASSES,
    CPU_FEW_SHOT,
    CPU_IMAGES,
    CPU_MODEL,
    PAPER_FEW_SHOT,
    named,
)
from pipelines.campaigns.studies.conclusions import by_data
from pipelines.campaigns.studies.study import Axis, FewShotTask, Point, Sizes, Study
from pipelines.recipes.paper import ROWS
from pipelines.recipes.stage import Recipe, Stage
from storage.selection import Selection
from vit import BiTConfig


def study(
    name: str,
    bases: Mapping[str, Stage],
    few_shot: FewShotTask,
    *,
    samples: Sequence[int],
    seeds: int,
) -> Study:
    """Every base on every number of samples; the draws are nested."""
    stages, points = [], []
    for series, base in bases.items():
        for count in samples:
            chosen = replace(base.data.selection, samples=count)
            stage = replace(base, data=replace(base.data, selection=chosen))
            short = series.lower().replace("/", "")
            for seed in range(seeds):
                stages.append(named(stage, f"{short}-n{count}", seed=seed))
                points.append(Point(stage=stages[-1].name, series=series, x=count, seed=seed))
    return Study(
        name="data-size",
        title="How many images does each architecture need?",
        source="Figure 4",
        recipe=Recipe(name=name, stages=tuple(stages)),
        points=tuple(points),
        few_shot=few_shot,
        metric="few_shot/5",
        x=Axis(label="Number of pre-training samples", log=True),
        y=Axis(label="5-shot linear top-1 accuracy [%]"),
        expected="ResNets are better on the smaller subsets, Vision Transformers on the larger;"
        " larger Transformers gain most",
        conclude=by_data,
    )


def _cpu(seeds: int = 1) -> Study:
    held_out = 2000
    base = replace(
        CPU,
        data=replace(
            CPU.data,
            val_split="train",
            val_selection=Selection(
                classes=CPU_CLASSES, samples=held_out, skip=CPU_IMAGES - held_out
            ),
        ),
        eval_every_steps=CPU.steps // 4,
    )
    bit = BiTConfig(image_size=28, blocks=(1, 1), num_classes=len(CPU_CLASSES))
    return study(
        "study-data-size-cpu",
        {
            "ViT/14": replace(base, model=replace(CPU_MODEL, patch_size=14)),
            "ViT/7": base,
            "BiT": replace(base, model=bit),
        },
        CPU_FEW_SHOT,
        samples=(500, 4000, 32_000),
        seeds=seeds,
    )


def _paper(seeds: int = 1) -> Study:
    rows = {
        "ViT-B/32": "vit-b32-jft",
        "ViT-L/32": "vit-l32-jft",
        "ViT-L/16": "vit-l16-jft",
        "ResNet50x1": "bit-r50x1-jft",
        "ResNet152x2": "bit-r152x2-jft",
    }
    held_out = 50_000
    bases = {}
    for series, row in rows.items():
        data = replace(
            ROWS[row].data,
            val_split="train",
            val_selection=Selection(samples=held_out, skip=303_000_000 - held_out),
        )
        bases[series] = replace(ROWS[row], data=data)
    return study(
        "study-data-size-paper",
        bases,
        PAPER_FEW_SHOT,
        samples=(9_000_000, 30_000_000, 90_000_000, 302_950_000),
        seeds=seeds,
    )


SIZES: Sizes = {"cpu": _cpu, "paper": _paper}
