"""Compute scaling: ResNets, Vision Transformers and hybrids against exaFLOPs (Figure 5 and Table 6
of arXiv:2010.11929)."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from pipelines.campaigns.studies.base import (
    CPU,
    CPU_CLASSES,
    CPU_FEW_SHOT,
    CPU_MODEL,
    PAPER_FEW_SHOT,
    named,
)
from pipelines.campaigns.studies.conclusions import by_compute
from pipelines.campaigns.studies.study import Axis, FewShotTask, Point, Sizes, Study
from pipelines.recipes.paper import ROWS, jft
from pipelines.recipes.stage import Recipe, Stage
from vit import BiTConfig, build_model

VIT, HYBRID, BIT = "Transformer (ViT)", "Hybrid", "ResNet (BiT)"


def study(
    name: str,
    rows: Mapping[str, Mapping[str, Stage]],
    few_shot: FewShotTask,
    *,
    seeds: int,
    y: str,
    metric: str,
) -> Study:
    """Every row (family -> name -> stage); x is what its training costs."""
    stages, points = [], []
    for family, members in rows.items():
        for row, base in members.items():
            for seed in range(seeds):
                stages.append(named(base, row, seed=seed))
                points.append(
                    Point(stage=stages[-1].name, series=family, x=exaflops(base), seed=seed)
                )
    return Study(
        name="scaling",
        title="What does accuracy cost in compute?",
        source="Figure 5, Table 6",
        recipe=Recipe(name=name, stages=tuple(stages)),
        points=tuple(points),
        few_shot=few_shot,
        metric=metric,
        x=Axis(label="Total pre-training compute [exaFLOPs]", log=True),
        y=Axis(label=y),
        expected="Vision Transformers take 2 to 4 times less compute than ResNets for the same"
        " accuracy; hybrids are ahead at small budgets only; no sign of saturation",
        conclude=partial(by_compute, subject=VIT),
    )


def exaflops(stage: Stage) -> float:
    """What training a stage takes, forward and backward, without its evaluations: vit.cost."""
    cost = build_model(stage.model, device="meta").cost()
    return stage.steps * stage.global_batch * cost.training_flops / 1e18


def _cpu(seeds: int = 1) -> Study:
    small = replace(CPU_MODEL, width=32, heads=2, mlp_dim=64, depth=3)
    bit = BiTConfig(image_size=28, blocks=(1,), num_classes=len(CPU_CLASSES))
    models = {
        VIT: {"vit-w32": small, "vit-w64": CPU_MODEL},
        HYBRID: {
            f"hybrid-w{vit.width}": replace(vit, patch_size=1, stem_blocks=(1,))
            for vit in (small, CPU_MODEL)
        },
        BIT: {"bit-1": bit, "bit-11": replace(bit, blocks=(1, 1))},
    }
    rows = {
        family: {
            f"{name}-{steps}": replace(CPU, model=model, steps=steps)
            for name, model in members.items()
            for steps in (100, 400)
        }
        for family, members in models.items()
    }
    return study(
        "study-scaling-cpu",
        rows,
        CPU_FEW_SHOT,
        seeds=seeds,
        metric="few_shot/10",
        y="10-shot linear top-1 accuracy [%]",
    )


def _paper(seeds: int = 1) -> Study:
    rows = {
        VIT: [
            "vit-b32-jft",
            "vit-b16-jft",
            "vit-l32-jft",
            "vit-l16-jft",
            "vit-l16-jft-14ep",
            "vit-h14-jft",
        ],
        HYBRID: [
            "r50-vit-b32-jft",
            "r50-vit-b16-jft",
            "r50-vit-l32-jft",
            "r50-vit-l16-jft",
            "r50-vit-l16-jft-14ep",
        ],
        BIT: [
            "bit-r50x1-jft",
            "bit-r50x2-jft",
            "bit-r101x1-jft",
            "bit-r152x1-jft",
            "bit-r152x2-jft",
            "bit-r152x2-jft-14ep",
        ],
    }
    known = ROWS | {"bit-r152x2-jft-14ep": jft("bit_r152x2", peak_lr=6e-4, epochs=14)}
    return study(
        "study-scaling-paper",
        {family: {row: known[row] for row in members} for family, members in rows.items()},
        PAPER_FEW_SHOT,
        seeds=seeds,
        metric="few_shot/5",
        y="5-shot linear top-1 accuracy on ImageNet [%]",
    )


SIZES: Sizes = {"cpu": _cpu, "paper": _paper}
