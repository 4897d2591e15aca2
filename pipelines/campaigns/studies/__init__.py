"""The paper's studies as stages: `pipelines/study.py NAME`.

study       what a study is: points, axes
base        the stages that the CPU-size and the paper-size studies derive theirs from
data_size scaling pos_embed resolution patch_size shape self_supervised
            one study each, at each size
command     the command line: plan, or run and report
cells       measurements: a row per point, and means over seeds
few_shot    few-shot accuracy of committed weights, on Ray
conclusions what the rows support, computed
report      table, figure, files, MLflow
"""

from pipelines.campaigns.studies import (
    data_size,
    patch_size,
    pos_embed,
    resolution,
    scaling,
    self_supervised,
    shape,
)
from pipelines.campaigns.studies.study import Size, Sizes, Study
from pipelines.recipes.errors import Mistake

STUDIES: dict[str, Sizes] = {
    "data-size": data_size.SIZES,
    "scaling": scaling.SIZES,
    "pos-embed": pos_embed.SIZES,
    "resolution": resolution.SIZES,
    "patch-size": patch_size.SIZES,
    "shape": shape.SIZES,
    "self-supervised": self_supervised.SIZES,
}


def find_study(name: str, size: Size, seeds: int | None = None) -> Study:
    """Return the study with that name and size, with `seeds` trainings per point.

    Raises:
        Mistake: there is none; lists the known ones.
    """
    if seeds is not None and seeds < 1:
        raise Mistake(f"--seeds {seeds}: wanted at least 1")
    if name not in STUDIES:
        raise Mistake(f"no study {name!r} - there are: {', '.join(STUDIES)}")
    make = STUDIES[name][size]
    return make() if seeds is None else make(seeds=seeds)
