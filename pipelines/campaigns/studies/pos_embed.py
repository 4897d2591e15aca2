"""Position embeddings: none, 1-D, 2-D, relative (Table 8 of arXiv:2010.11929, appendix D.4)."""

from dataclasses import replace
from functools import partial

from pipelines.campaigns.studies.base import CPU, CPU_FEW_SHOT, PAPER, PAPER_FEW_SHOT, named
from pipelines.campaigns.studies.conclusions import against_first
from pipelines.campaigns.studies.study import Axis, FewShotTask, Point, Sizes, Study
from pipelines.recipes.stage import Recipe, Stage
from vit import ViTConfig
from vit.config import PosEmbed

KINDS: dict[str, PosEmbed] = {
    "none": "none",
    "1-D": "learned-1d",
    "2-D": "learned-2d",
    "relative": "relative",
}


def study(name: str, base: Stage, few_shot: FewShotTask, *, seeds: int) -> Study:
    """The same pre-training with each kind of embedding; 5-shot accuracy."""
    model = base.model
    assert isinstance(model, ViTConfig), "position embeddings are the Vision Transformer's"
    stages, points = [], []
    for label, kind in KINDS.items():
        for seed in range(seeds):
            stage = replace(base, model=replace(model, pos_embed=kind))
            stages.append(named(stage, label.lower(), seed=seed))
            points.append(Point(stage=stages[-1].name, series="ViT", x=label, seed=seed))
    return Study(
        name="pos-embed",
        title="Which position embedding?",
        source="Table 8",
        recipe=Recipe(name=name, stages=tuple(stages)),
        points=tuple(points),
        few_shot=few_shot,
        metric="few_shot/5",
        x=Axis(label="Position embedding"),
        y=Axis(label="5-shot linear top-1 accuracy [%]"),
        expected="any embedding is far better than none; 1-D, 2-D and relative are alike"
        " (.61382 without, .64206, .64001, .64032)",
        conclude=partial(against_first, first="none", others="the embeddings"),
    )


def _cpu(seeds: int = 2) -> Study:
    return study("study-pos-embed-cpu", CPU, CPU_FEW_SHOT, seeds=seeds)


def _paper(seeds: int = 1) -> Study:
    return study("study-pos-embed-paper", PAPER, PAPER_FEW_SHOT, seeds=seeds)


SIZES: Sizes = {"cpu": _cpu, "paper": _paper}
