"""Sample images for the pictures: a fixed choice from a split, the same on every machine.

They are read once and cropped to each model's size, so that the pictures before and after an
upscale show the same images.
"""

from dataclasses import dataclass

import numpy as np

from storage.dataset import Dataset
from storage.decode import Crop, decode
from storage.errors import BadDataset, BadImage
from storage.index import load_index
from storage.reader import Damaged, read_samples
from storage.selection import Selection, select


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Encoded images of a split, ascending by position."""

    data: tuple[bytes, ...]
    classes: tuple[str, ...]
    """The class's name of each."""
    source: str
    """Where they are from, for a title."""

    def __len__(self) -> int:
        return len(self.data)

    def cut(self, crop: Crop) -> np.ndarray:
        """Decoded for one size: uint8 [n, S, S, 3]. Nothing random: evaluation's crop."""
        return np.stack([decode(data, crop, seed=0, epoch=0, index=0) for data in self.data])


def read_fixed_samples(
    dataset: Dataset, split: str, *, selection: Selection, count: int, crop: Crop
) -> Samples:
    """Read `count` images spread evenly over the selected positions of a split, or all if fewer.

    Damaged ones are left out.

    Raises:
        storage.errors.BadDataset, BadSelection, Unavailable: there is nothing to read.
    """
    index = load_index(dataset, split)
    positions, _ = select(index, selection)
    at = np.unique(np.linspace(0, len(positions) - 1, count).round().astype(np.int64))
    chosen = positions[at]  # ascending, no two the same
    damaged: list[Damaged] = []
    readable: dict[int, bytes] = {}
    for sample in read_samples(dataset.shard_store(), index, chosen, damaged=damaged):
        try:
            decode(sample.data, crop, seed=0, epoch=0, index=0)
        except BadImage:
            continue
        readable[sample.request] = sample.data
    if not readable:
        raise BadDataset(f"no image of split {split!r} of {dataset.uri} can be read")
    requests = sorted(readable)
    labels = index.labels[chosen[requests]]
    return Samples(
        data=tuple(readable[request] for request in requests),
        classes=tuple(dataset.classes[label] for label in labels),
        source=f"{dataset.uri.rstrip('/').rpartition('/')[2]}/{split}",
    )
