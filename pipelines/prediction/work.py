"""What happens to one piece: decode it, run the network batch by batch, show or write the rows.

Batches are those of evaluation: `batch` rows in order, the last one padded. So the numbers are the
same on any number of workers, and those that `evaluate.py` computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pipelines.inference.network import Network
from pipelines.lineage.class_names import ClassNames
from pipelines.prediction.parts import write_part
from pipelines.prediction.pieces import Piece, decode_piece
from pipelines.prediction.prediction import Prediction
from storage.columns import Batch
from storage.decode import Crop
from vit import Config


def decoded(number: int, piece: Piece, crop: Crop) -> Batch:
    """Read and decode a piece: columns image, file, error (empty: none), piece (its number)."""
    pixels = decode_piece(piece, crop)
    return {
        "image": pixels.image,
        "file": np.array(pixels.file, dtype=object),
        "error": np.array(pixels.error, dtype=object),
        "piece": np.full(len(pixels.file), number, dtype=np.int64),
    }


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done with a decoded piece: a prediction without its list of images."""

    config: Config
    classes: ClassNames
    top: int
    features: bool
    out: str | None
    batch: int
    precision: Literal["float32", "bfloat16"]

    @classmethod
    def of(cls, prediction: Prediction) -> "Work":
        """Take what a worker has to know."""
        return cls(
            config=prediction.candidate.config,
            classes=prediction.classes,
            top=prediction.top,
            features=prediction.features,
            out=prediction.out,
            batch=prediction.batch,
            precision=prediction.precision,
        )

    def __call__(self, network: Network, piece: Batch) -> Batch:
        """Return file, error, top and probability of a piece, or write them and count."""
        image = piece["image"]
        parts = [
            self._batch(network, image[start : start + self.batch])
            for start in range(0, len(image), self.batch)
        ]
        top, probability, features = (np.concatenate(column) for column in zip(*parts, strict=True))
        if self.out is None:
            shown = {name: piece[name] for name in ("file", "error")}
            return shown | {"top": top, "probability": probability}
        error = [str(text) or None for text in piece["error"]]
        columns = table_columns(piece["file"].tolist(), top, probability, error, self.classes)
        number = int(piece["piece"][0])
        write_part(self.out, number, columns, features if self.features else None)
        bad = sum(text is not None for text in error)
        return {"images": np.array([len(image)]), "errors": np.array([bad])}

    def _batch(
        self, network: Network, image: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Classes int64 [b, top], probabilities float64 [b, top], features float32 [b, D]."""
        rows = len(image)
        padded = np.pad(image, [(0, self.batch - rows), (0, 0), (0, 0), (0, 0)])
        features = network.features(padded)  # [batch, D]
        outputs = features.float().cpu().numpy()[:rows]
        if not self.top:  # there is no head
            return np.zeros((rows, 0), np.int64), np.zeros((rows, 0)), outputs
        top, probability = likeliest(network.logits(features), self.top)
        return top[:rows], probability[:rows], outputs


def likeliest(logits: Tensor, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest classes, ties by class, and their softmax: [b, C] -> [b, top], [b, top]."""
    scores = torch.log_softmax(logits.double(), dim=1)
    order = scores.sort(dim=1, descending=True, stable=True)
    return order.indices[:, :top].cpu().numpy(), order.values[:, :top].exp().cpu().numpy()


def table_columns(
    file: Sequence[str],
    top: np.ndarray,
    probability: np.ndarray,
    error: Sequence[str | None],
    classes: ClassNames,
) -> dict[str, list[Any]]:
    """Batch file, class, probability, class_2, probability_2, ..., error, one row per image."""
    columns: dict[str, list[Any]] = {"file": list(file)}
    good = [text is None for text in error]
    for rank in range(top.shape[1]):
        suffix = f"_{rank + 1}" if rank else ""
        columns[f"class{suffix}"] = [
            classes.name_of(label) if fine else None
            for label, fine in zip(top[:, rank].tolist(), good, strict=True)
        ]
        columns[f"probability{suffix}"] = [
            value if fine else None
            for value, fine in zip(probability[:, rank].tolist(), good, strict=True)
        ]
    return columns | {"error": list(error)}
