"""The code of an exported MLflow model: images in, classes out.

MLflow runs this file where the model is loaded or served, with copies of the packages `vit` and
`storage` beside it; nothing is unpickled. Decoding, network and arithmetic are those of
`evaluate.py`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from safetensors.torch import load_file

from storage.decode import Crop, decode
from storage.errors import BadImage
from vit import build_model, config_from_dict, normalize

BATCH = 64
"""Images in one forward pass."""
Row = tuple[str | None, float | None, str | None]
"""Class, probability, error."""


class ImageClassifier(PythonModel):
    """Classifies JPEG, PNG and WebP files."""

    def load_context(self, context: Any) -> None:
        """Read weights and settings: `model.safetensors`, `model.json`."""
        # As cluster/precision.py, which is not there: cuDNN would round convolutions to TF32.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        folder = Path(context.artifacts["model"])
        said = json.loads((folder / "model.json").read_text())
        self.classes: list[str] = said["classes"]
        self.crop = Crop(**said["crop"])
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = build_model(config_from_dict(said["config"]), seed=None)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        self.model = model.to(self.device).eval()

    # Without type hints, which MLflow would read as another signature than that of `registry.py`.
    def predict(self, context, model_input, params=None):  # type: ignore  # noqa: ANN001, ANN201
        """Classify the files in column `image` (bytes; base64 over HTTP).

        Returns:
            Columns class, probability (softmax) and error, a row per file. A file that is no image
            has an error and no class.
        """
        rows: list[Row] = []
        files = list(model_input["image"])
        for start in range(0, len(files), BATCH):
            rows += self._classified(files[start : start + BATCH])
        return pd.DataFrame(rows, columns=["class", "probability", "error"])

    def _classified(self, files: list[bytes]) -> list[Row]:
        images: list[np.ndarray] = []
        errors: list[str | None] = []
        for data in files:
            try:
                images.append(decode(data, self.crop, seed=0, epoch=0, index=0))
                errors.append(None)
            except BadImage as error:
                errors.append(str(error))
        likeliest = iter(self._likeliest(np.stack(images)) if images else [])
        return [(None, None, error) if error else (*next(likeliest), None) for error in errors]

    @torch.inference_mode()
    def _likeliest(self, images: np.ndarray) -> list[tuple[str, float]]:
        """Class and probability of images uint8 [b, H, W, 3]."""
        pixels = normalize(torch.from_numpy(images).to(self.device))
        shares = torch.softmax(self.model(pixels).double(), dim=1)  # [b, C]
        best, label = shares.max(dim=1)
        names = [self.classes[at] for at in label.tolist()]
        return list(zip(names, best.tolist(), strict=True))


set_model(ImageClassifier())
