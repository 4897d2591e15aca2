"""Pictures beside a stage's attempt: what the network sees, and what it makes of it."""

import torch
from torch import Tensor

from pipelines.inspection.image_grid import image_grid
from storage.objects import open_store

BATCH_PICTURE = "pictures/augmented-batch.png"
ANSWERS_PICTURE = "pictures/hidden-patches.png"
ANSWERS_SHOWN = 12
"""Images in a row of it."""


def draw_batch(attempt_uri: str, images: Tensor) -> None:
    """Draw the first images [m, 3, H, W] of a stage as the network sees them."""
    open_store(attempt_uri).write(BATCH_PICTURE, image_grid(images))


def draw_answers(attempt_uri: str, rows: list[Tensor]) -> None:
    """Draw images, each row [m, 3, H, W], and what the network makes of them.

    The picture replaces that of the evaluation before.
    """
    columns = min(ANSWERS_SHOWN, len(rows[0]))
    picture = image_grid(torch.cat([row[:columns] for row in rows]), columns=columns)
    open_store(attempt_uri).write(ANSWERS_PICTURE, picture)
