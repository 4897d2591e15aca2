"""Patch size: the same Transformer over longer and shorter sequences (Figure 8 of
arXiv:2010.11929)."""

from collections.abc import Sequence
from dataclasses import replace

from pipelines.campaigns.studies.base import CPU, CPU_FEW_SHOT, PAPER, PAPER_FEW_SHOT, named
from pipelines.campaigns.studies.conclusions import trend
from pipelines.campaigns.studies.study import Axis, FewShotTask, Point, Sizes, Study
from pipelines.recipes.stage import Recipe, Stage
from vit import ViTConfig, build_model


def study(
    name: str,
    base: Stage,
    few_shot: FewShotTask,
    *,
    patches: Sequence[int],
    seeds: int,
) -> Study:
    """The same pre-training with each patch size; x is compute relative to the largest patch's."""
    assert isinstance(base.model, ViTConfig), "patches are the Vision Transformer's"
    models = {patch: replace(base.model, patch_size=patch) for patch in patches}
    macs = {p: build_model(model, device="meta").cost().forward_macs for p, model in models.items()}
    stages, points = [], []
    for patch, model in models.items():
        for seed in range(seeds):
            stage = replace(base, model=model)
            stages.append(named(stage, f"patch{patch}", seed=seed))
            points.append(
                Point(
                    stage=stages[-1].name,
                    series=f"patch {patch} px",
                    x=macs[patch] / min(macs.values()),
                    seed=seed,
                )
            )
    return Study(
        name="patch-size",
        title="Do smaller patches pay?",
        source="Figure 8",
        recipe=Recipe(name=name, stages=tuple(stages)),
        points=tuple(points),
        few_shot=few_shot,
        metric="few_shot/5",
        x=Axis(label="Relative compute", log=True),
        y=Axis(label="5-shot linear top-1 accuracy [%]"),
        expected="smaller patches, and so longer sequences, improve robustly without more"
        " parameters",
        conclude=trend,
    )


def _cpu(seeds: int = 2) -> Study:
    return study("study-patch-size-cpu", CPU, CPU_FEW_SHOT, patches=(14, 7, 4), seeds=seeds)


def _paper(seeds: int = 1) -> Study:
    return study("study-patch-size-paper", PAPER, PAPER_FEW_SHOT, patches=(32, 16, 8), seeds=seeds)


SIZES: Sizes = {"cpu": _cpu, "paper": _paper}
