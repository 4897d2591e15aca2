"""Two photographs that scikit-learn ships, as real JPEG files, and a stage committed on them."""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sklearn.datasets
import torch
from PIL import Image

import vit
from pipelines.recipes.data import Data
from pipelines.recipes.digits import FINETUNE
from pipelines.recipes.stage import Stage
from storage.pack import pack
from storage.pack.folder import Folder
from tests.pipelines.support.committed import commit_stage
from tests.vit.support.peers import random_model

_IMAGES = Path(str(sklearn.datasets.__file__)).parent / "images"
CHINA, FLOWER = ((_IMAGES / f"{name}.jpg").read_bytes() for name in ("china", "flower"))
MODEL = vit.ViTConfig(
    image_size=224, patch_size=32, width=48, depth=2, heads=3, mlp_dim=96, num_classes=2
)
STAGE = replace(
    FINETUNE, parent=None, model=MODEL, data=Data(dataset="photos", eval_crop="resize"), steps=20
)
METRICS = {
    "val/accuracy": 0.25,
    "val/seconds": 5.98857,
    "val_ema/accuracy": 0.75,
    "val_ema/loss": 0.5,
    "val_ema/seconds": 5.98857,
}


def jpeg(data: bytes, box: tuple[int, int, int, int]) -> bytes:
    """A part of a photograph: left, upper, right, lower."""
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).crop(box).save(out, "JPEG", quality=95)
    return out.getvalue()


@dataclass(frozen=True)
class Photos:
    """A folder of photographs, the packed dataset, and stages that were committed on it."""

    folder: Path
    """train/ and val/, each with china/ and flower/; val has 5 images."""
    data_root: str
    storage_root: str
    average: dict[str, torch.Tensor]
    """The Polyak average of every stage: all that `--average auto` takes."""

    def commit(self, stage: Stage, run: str) -> tuple[str, dict[str, Any]]:
        """Commit a stage of the same shape in a run of its own."""
        return commit_stage(
            self.storage_root,
            stage,
            self.data_root,
            run=run,
            average=self.average,
            metrics=METRICS,
        )

    def place(self) -> list[str]:
        """Arguments of a script."""
        return ["--place.data-root", self.data_root, "--place.storage-root", self.storage_root]


def make_photos(root: Path) -> Photos:
    """Write the images, pack them and commit `STAGE` in run `photos`."""
    for name, data in (("china", CHINA), ("flower", FLOWER)):
        for split in ("train", "val"):
            (root / "photos" / split / name).mkdir(parents=True)
            (root / "photos" / split / name / "whole.jpg").write_bytes(data)
        part = root / "photos" / "val" / name / "part.jpg"
        part.write_bytes(jpeg(data, (100, 50, 420, 400)))
    (root / "photos" / "val" / "flower" / "wide.jpg").write_bytes(jpeg(FLOWER, (0, 90, 640, 330)))
    pack(Folder(root / "photos"), str(root / "data" / "photos"))
    photos = Photos(
        folder=root / "photos",
        data_root=str(root / "data"),
        storage_root=str(root / "runs"),
        average=dict(random_model(MODEL, seed=5).state_dict()),
    )
    photos.commit(STAGE, "photos")
    return photos
