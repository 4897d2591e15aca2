"""Recipes for any checkpoint on any packed dataset: `finetune`, `augreg-finetune`, `probe`.

`pipelines/finetune.py --init CHECKPOINT --data NAME` fills in the model, the classes and the steps
(`pipelines.lineage.adoption`). `finetune` suits thousands to a million images: AdamW with
layer-wise decay of the learning rate, as arXiv:2106.08254 (BEiT) and arXiv:2111.06377 (MAE, table
9) fine-tune. `augreg-finetune` is SGD without any regularisation, as arXiv:2106.10270 fine-tuned
its checkpoints (section 3.4); of its learning rates try 0.003 and 0.03 too. `probe` trains a linear
head on the frozen checkpoint. Of the evaluations after each epoch the best counts, but in
`augreg-finetune` the last.
"""

from dataclasses import replace

from pipelines.recipes.data import Data
from pipelines.recipes.stage import Recipe, Stage
from vit import OptimConfig

EPOCHS = 20.0
"""Length of the fine-tuning where neither --epochs nor --stage.steps is given."""
WARMUP_SHARE = 0.1
"""Share of the steps in which the learning rate rises."""

GENERAL = Recipe(
    name="finetune",
    stages=(
        Stage(
            name="finetune",
            reset_head=True,
            data=Data(dataset="", area=(0.35, 1.0), tail="carry"),
            label_smoothing=0.1,
            optim=OptimConfig(
                peak_lr=3e-4, weight_decay=0.05, clip_norm=1.0, layer_decay=0.75, schedule="cosine"
            ),
            global_batch=64,
            keep="best",
            patience=10,
            precision="tf32",
        ),
    ),
)

AUGREG = Recipe(
    name="augreg-finetune",
    stages=(
        replace(
            GENERAL.stages[0],
            data=Data(dataset="", tail="carry"),
            label_smoothing=0.0,
            optim=OptimConfig(
                name="sgd", peak_lr=0.01, momentum=0.9, clip_norm=1.0, schedule="cosine"
            ),
            global_batch=512,
            keep="last",
            patience=0,
        ),
    ),
)

PROBE = Recipe(
    name="probe",
    stages=(
        replace(
            GENERAL.stages[0],
            train="head",
            label_smoothing=0.0,
            # Weights that are not trained need no decay, and a linear head no clipping.
            optim=OptimConfig(peak_lr=1e-3, schedule="cosine"),
            precision="float32",  # tf32 would round the features before the head
        ),
    ),
)

GENERAL_RECIPES = (GENERAL, AUGREG, PROBE)
"""The recipes whose model and length follow from a checkpoint and a dataset."""
