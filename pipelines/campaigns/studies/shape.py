"""Shape of the Transformer: depth, width, width of the MLP, patch, and all of them at once (Figure
8 of arXiv:2010.11929, appendix D.2).

The lines meet in the base. The paper names the base and no other point; here they double and halve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipelines.campaigns.studies.base import CPU, CPU_FEW_SHOT, PAPER, PAPER_FEW_SHOT, named
from pipelines.campaigns.studies.conclusions import by_dimension
from pipelines.campaigns.studies.study import Axis, FewShotTask, Point, Sizes, Study
from pipelines.recipes.stage import Recipe, Stage
from vit import ViTConfig, build_model

LINES = {
    "depth": ("depth",),
    "width": ("width", "heads"),
    "MLP width": ("mlp_dim",),
    "patch size": ("patch_size",),
    "all": ("depth", "width", "heads", "mlp_dim", "patch_size"),
}
"""Fields of the model that a line of the figure changes together."""


def study(
    name: str,
    base: Stage,
    few_shot: FewShotTask,
    *,
    values: Mapping[str, Sequence[int]],
    middle: int,
    seeds: int,
) -> Study:
    """The same pre-training with each shape; x is compute relative to the base's.

    Args:
        name: of the recipe.
        base: a pre-training stage; its model's shape is replaced.
        few_shot: what is measured.
        values: of each field, from the least to the most compute.
        middle: which of them is the base.
        seeds: trainings of each point.
    """
    assert isinstance(base.model, ViTConfig), "the shape is the Vision Transformer's"
    center = replace(base.model, **{field: each[middle] for field, each in values.items()})
    unit = build_model(center, device="meta").cost().forward_macs
    stages: dict[str, Stage] = {}
    points = []
    for series, changed in LINES.items():
        for at in range(min(len(values[field]) for field in changed)):
            model = replace(center, **{field: values[field][at] for field in changed})
            label = (
                "base"
                if at == middle
                else f"{series.lower().replace(' ', '-')}-{values[changed[0]][at]}"
            )
            macs = build_model(model, device="meta").cost().forward_macs
            for seed in range(seeds):
                stage = named(replace(base, model=model), label, seed=seed)
                stages[stage.name] = stage
                points.append(Point(stage=stage.name, series=series, x=macs / unit, seed=seed))
    return Study(
        name="shape",
        title="Which dimension should grow?",
        source="Figure 8",
        recipe=Recipe(name=name, stages=tuple(stages.values())),
        points=tuple(points),
        few_shot=few_shot,
        metric="few_shot/5",
        x=Axis(label="Compute relative to the base", log=True),
        y=Axis(label="5-shot linear top-1 accuracy [%]"),
        expected="depth helps most, up to 64 layers; width changes least; smaller patches help"
        " without more parameters; scaling all dimensions helps robustly",
        conclude=by_dimension,
    )


def _cpu(seeds: int = 2) -> Study:
    values = {
        "depth": (2, 4, 8),
        "width": (32, 64, 128),
        "heads": (2, 4, 8),
        "mlp_dim": (64, 128, 256),
        "patch_size": (14, 7, 4),
    }
    return study("study-shape-cpu", CPU, CPU_FEW_SHOT, values=values, middle=1, seeds=seeds)


def _paper(seeds: int = 1) -> Study:
    values = {
        "depth": (4, 8, 16, 32, 64),
        "width": (512, 1024, 2048),
        "heads": (8, 16, 32),
        "mlp_dim": (1024, 2048, 4096, 8192),
        "patch_size": (56, 32, 16, 8),
    }
    return study("study-shape-paper", PAPER, PAPER_FEW_SHOT, values=values, middle=1, seeds=seeds)


SIZES: Sizes = {"cpu": _cpu, "paper": _paper}
