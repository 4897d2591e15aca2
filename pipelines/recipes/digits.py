"""The demo recipe: scikit-learn's 1,797 handwritten digits, three stages in minutes on a laptop.

Pre-train at 16 px on the seven classes 0-6, upscale to 24 px by resizing the position table, then
fine-tune on all ten classes with ten labelled examples each. It is small enough for two CPU cores
and uses every mechanism of the large recipes.
"""

from dataclasses import replace

from pipelines.recipes.data import Data
from pipelines.recipes.stage import Recipe, Stage
from storage.selection import Selection
from vit import OptimConfig, ViTConfig

MODEL = ViTConfig(
    image_size=16, patch_size=4, width=96, depth=4, heads=4, mlp_dim=192, num_classes=7, head="mlp"
)
DATA = Data(
    dataset="digits",
    selection=Selection(classes=(0, 1, 2, 3, 4, 5, 6)),
    area=(0.6, 1.0),
    flip=False,  # a mirrored 2 is not a digit
    eval_crop="resize",
)

PRETRAIN = Stage(
    name="pretrain",
    model=MODEL,
    data=DATA,
    optim=OptimConfig(peak_lr=1e-3, weight_decay=0.1, clip_norm=1.0, warmup_steps=10),
    global_batch=64,
    steps=400,
    eval_every_steps=200,
)
UPSCALE = replace(
    PRETRAIN,
    name="upscale",
    parent="pretrain",
    model=replace(MODEL, image_size=24),
    optim=replace(PRETRAIN.optim, peak_lr=3e-4, warmup_steps=10),
    steps=100,
    eval_every_steps=0,
)
FINETUNE = replace(
    UPSCALE,
    name="finetune",
    parent="upscale",
    reset_head=True,
    model=replace(UPSCALE.model, num_classes=10, head="linear"),
    data=replace(DATA, selection=Selection(per_class=10), tail="carry"),
    # Table 4 of arXiv:2010.11929: SGD, no weight decay, clip 1, cosine
    optim=OptimConfig(
        name="sgd", peak_lr=0.03, momentum=0.9, clip_norm=1.0, warmup_steps=10, schedule="cosine"
    ),
    global_batch=32,
    steps=150,
    eval_every_steps=75,
)

DIGITS = Recipe(name="digits", stages=(PRETRAIN, UPSCALE, FINETUNE))
# Control: the same fine-tuning, but from random weights.
DIGITS_SCRATCH = Recipe(name="digits-scratch", stages=(replace(FINETUNE, parent=None),))
