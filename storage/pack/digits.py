"""scikit-learn's 1,797 handwritten digits (UCI, 8x8 grayscale), as 8-bit PNG. Ships with
scikit-learn."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from storage.pack.png import png
from storage.pack.source import Sample, Source, hash_of, is_validation


class Digits(Source):
    """1,797 images of 43 writers; the split is by hash of the position, about 1 in 5 for
    validation."""

    def __init__(self, *, validation_fraction: float = 0.2) -> None:
        # imported here: it takes a second that other sources need not pay
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        images, labels = bunch["images"], bunch["target"]  # float64 [1797, 8, 8], int64 [1797]
        # 17 grey levels 0..16 -> 0..255
        self._images = np.round(images * (255 / 16)).astype(np.uint8)
        self._labels = labels
        held = np.array(
            [is_validation(f"digits/{i}", fraction=validation_fraction) for i in range(len(labels))]
        )
        self._positions = {"train": np.flatnonzero(~held), "val": np.flatnonzero(held)}

    @property
    def classes(self) -> tuple[str, ...]:
        """The digits by name."""
        return tuple(str(digit) for digit in range(10))

    @property
    def splits(self) -> Mapping[str, int]:
        """Samples of train and val."""
        return {name: len(positions) for name, positions in self._positions.items()}

    def read(self, split: str, i: int) -> Sample:
        """One digit, as PNG."""
        position = int(self._positions[split][i])
        return Sample(
            key=f"digit-{position:04d}",
            suffix="png",
            data=png(self._images[position]),
            label=int(self._labels[position]),
        )

    def identity(self) -> str:
        """Hash of pixels, labels and split."""
        return hash_of(self._images, self._labels, *self._positions.values())
