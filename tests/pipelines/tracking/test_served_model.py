"""The code that MLflow runs in an exported model."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from safetensors.torch import save_file

from pipelines.tracking.served_model import ImageClassifier
from storage.decode import Crop
from vit import BiTConfig, build_model

BIT = BiTConfig(image_size=16, blocks=(1, 1), num_classes=2)


def test_a_served_model_rounds_nothing(
    may_round: Callable[[], tuple[bool, bool]], tmp_path: Path
) -> None:
    """As in evaluate.py: a BiT and a hybrid are convolutions, which a GPU rounds by default."""
    save_file(build_model(BIT).state_dict(), tmp_path / "model.safetensors")
    said = {"config": asdict(BIT), "crop": asdict(Crop(image_size=16)), "classes": ["a", "b"]}
    (tmp_path / "model.json").write_text(json.dumps(said))
    ImageClassifier().load_context(SimpleNamespace(artifacts={"model": str(tmp_path)}))
    assert may_round() == (False, False)
