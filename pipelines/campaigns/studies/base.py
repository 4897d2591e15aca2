"""Base stages of the studies: a small one, which two CPU cores train in half a minute on
Fashion-MNIST, and the paper's.

On the CPU, seven of the ten classes are pre-trained on; few-shot regression must tell all ten
apart, three of them never seen. The images are grey and 28 pixels wide: what holds here need not
hold for photographs, and the other way round.
"""

from dataclasses import replace

from pipelines.campaigns.studies.study import FewShotTask
from pipelines.recipes.data import Data
from pipelines.recipes.paper import ROWS
from pipelines.recipes.stage import Stage
from storage.selection import Selection
from vit import OptimConfig, ViTConfig

CPU_CLASSES = tuple(range(7))
CPU_IMAGES = 42_000  # of these classes in the training split
CPU_MODEL = ViTConfig(
    image_size=28, patch_size=7, width=64, depth=4, heads=4, mlp_dim=128, num_classes=7, head="mlp"
)
CPU = Stage(
    name="pretrain",
    model=CPU_MODEL,
    data=Data(
        dataset="fashion-mnist",
        selection=Selection(classes=CPU_CLASSES),
        val_selection=Selection(samples=2000),
        area=(0.5, 1.0),
        eval_crop="resize",
    ),
    optim=OptimConfig(peak_lr=2e-3, weight_decay=0.1, clip_norm=1.0, warmup_steps=30),
    global_batch=64,
    steps=400,
)
CPU_FEW_SHOT = FewShotTask(dataset="fashion-mnist", test_samples=4000)

PAPER_FEW_SHOT = FewShotTask(dataset="imagenet1k")
# Table 8 of arXiv:2010.11929 pre-trains B/16 and measures on ImageNet 5-shot.
PAPER = ROWS["vit-b16-jft"]


def named(stage: Stage, name: str, *, seed: int) -> Stage:
    """The stage under a name that says what varies, and the seed."""
    return replace(stage, name=f"{name}-s{seed}", seed=seed)
