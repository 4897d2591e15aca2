"""Measure one model on its images; a note explains each picture that it cannot have."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.inspection.samples import Samples
from pipelines.inspection.subject import Subject
from pipelines.recipes.data import Data
from vit import ViT, normalize
from vit.attention import (
    attention_maps,
    attention_rollout,
    mean_attention_distance,
    patch_distances,
    uniform_distance,
)
from vit.learned import (
    missing_filters,
    missing_positions,
    position_similarity,
    position_table,
    principal_filters,
)

FILTERS = 28  # as many as the paper shows
ROLLOUTS = 8  # images whose rollout is shown
_BATCH_NUMBERS = 16 << 20  # of one block's maps at once: bounds memory


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that can be drawn of one model; None for what the model does not have."""

    title: str
    filters: np.ndarray | None
    """Principal filters [n, C, p, p], of unit length."""
    filters_share: float
    """Share of the filters' variance that they explain."""
    similarity: np.ndarray | None
    """Cosine similarity of positions [h, w, h, w]."""
    distances: np.ndarray | None
    """Mean attention distance in pixels [depth, heads]."""
    uniform: float
    """Distance in pixels of a head that attends to all patches alike."""
    rollout: np.ndarray | None
    """Attention rollout [n, h, w]; 1 is what a patch gets if all get the same."""
    images: np.ndarray
    """The images of the rollout: uint8 [n, S, S, 3]."""
    classes: tuple[str, ...]
    """Their classes."""
    samples: int
    """Images that the distances are the mean of."""
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The numbers, for machines."""
        return {
            "title": self.title,
            "images": self.samples,
            "filters_share_of_variance": self.filters_share if self.filters is not None else None,
            "mean_attention_distance_pixels": None
            if self.distances is None
            else self.distances.round(3).tolist(),
            "uniform_attention_distance_pixels": round(self.uniform, 3),
            "notes": list(self.notes),
        }


def measure(subject: Subject, samples: Samples, data: Data) -> Measured:
    """Look at one model. The images are cut as `data` cuts them for evaluation."""
    model, config = subject.model, subject.config
    pixels = samples.cut(data.val_crop(subject.image_size))  # [n, S, S, 3]
    shown = np.unique(np.linspace(0, len(pixels) - 1, ROLLOUTS).round().astype(np.int64))
    notes = [f"{subject.name}: {note}" for note in subject.notes]
    filters = similarity = distances = rollout = None
    share = uniform = 0.0
    lacks = missing_filters(config)
    if lacks is None and isinstance(model, ViT):
        components, shares = principal_filters(model, FILTERS)
        filters, share = components.numpy(), float(shares.sum())
        if filters.shape[1] != 3:
            lacks, filters = f"filters of {filters.shape[1]} channels have no colour", None
    if lacks:
        notes.append(f"{subject.name}: no filters: {lacks}")
    table = position_table(model) if isinstance(model, ViT) else None
    if table is None:
        notes.append(f"{subject.name}: no similarity of positions: {missing_positions(config)}")
    else:
        similarity = position_similarity(table).numpy()
    if not isinstance(model, ViT):
        notes.append(f"{subject.name}: no attention: a BiT ResNet is made of convolutions")
    else:
        apart = patch_distances(model.grid_size, model.config.patch_pixels)
        uniform = uniform_distance(apart)
        distances = _mean_distances(model, pixels, apart)
        flow = torch.cat([attention_rollout(model, x) for x in _batches(model, pixels[shown])])
        rollout = (flow * flow[0].numel()).numpy()  # [n, h, w]
    return Measured(
        title=subject.title,
        filters=filters,
        filters_share=share,
        similarity=similarity,
        distances=distances,
        uniform=uniform,
        rollout=rollout,
        images=pixels[shown],
        classes=tuple(samples.classes[at] for at in shown),
        samples=len(pixels),
        notes=tuple(notes),
    )


def _mean_distances(model: ViT, pixels: np.ndarray, apart: Tensor) -> np.ndarray:
    """Mean over images of each head's distance, in pixels: uint8 [n, S, S, 3] -> [depth, heads]."""
    config = model.config
    total = torch.zeros(config.depth, config.heads, dtype=torch.float64)
    for images in _batches(model, pixels):
        for depth, weights in enumerate(attention_maps(model, images)):
            far = mean_attention_distance(
                weights, apart, num_prefix_tokens=model.num_prefix_tokens
            )  # [b, heads]
            total[depth] += far.sum(0)
    return (total / len(pixels)).numpy()


def _batches(model: ViT, pixels: np.ndarray) -> Iterator[Tensor]:
    """Images as the model takes them, so many at once that their maps fit: [b, 3, S, S]."""
    config = model.config
    rows = max(1, _BATCH_NUMBERS // (config.heads * config.num_tokens**2))
    for start in range(0, len(pixels), rows):
        yield normalize(torch.from_numpy(pixels[start : start + rows]))
