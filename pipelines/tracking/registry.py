"""MLflow models: write a folder that MLflow can load and serve, and register it under a name."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient, pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from safetensors.torch import save_file
from torch import Tensor

import storage
import vit
from pipelines.tracking.client import answering

if TYPE_CHECKING:
    from storage.decode import Crop

CODE = Path(__file__).parent / "served_model.py"
ALIAS = "champion"
_NEEDS = ("torch", "numpy", "pandas", "pillow", "simplejpeg", "safetensors")
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "class", required=False),
            ColSpec(DataType.double, "probability", required=False),
            ColSpec(DataType.string, "error", required=False),
        ]
    ),
)


def save_model(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: vit.Config,
    *,
    classes: Sequence[str],
    crop: "Crop",
    metadata: Mapping[str, str],
) -> None:
    """Write an MLflow model into an empty folder.

    Args:
        folder: where.
        tensors: the weights.
        config: of the model.
        classes: their names, in the order of the logits.
        crop: what the network sees of an image.
        metadata: shown with the model.
    """
    said = {"config": asdict(config), "crop": asdict(crop), "classes": list(classes)}
    with tempfile.TemporaryDirectory() as parts:
        save_file(dict(tensors), Path(parts) / "model.safetensors")
        (Path(parts) / "model.json").write_text(json.dumps(said, indent=1))
        pyfunc.save_model(
            folder,
            python_model=str(CODE),
            artifacts={"model": parts},
            code_paths=[str(Path(str(room.__file__)).parent) for room in (vit, storage)],
            signature=_SIGNATURE,
            pip_requirements=[f"{name}=={version(name)}" for name in _NEEDS],
            metadata=dict(metadata),
        )


def register_model(client: MlflowClient, name: str, folder: Path, run_id: str) -> str:
    """Upload an MLflow model to a run and make it the newest version of a registered model.

    Args:
        client: from `client.open_client`.
        name: of the registered model; made if it does not exist.
        folder: the model.
        run_id: of the stage.

    Returns:
        The version. Its alias is `champion`.

    Raises:
        client.TrackingUnavailable: MLflow does not answer or refuses it.
    """
    with answering(client.tracking_uri):
        client.log_artifacts(run_id, str(folder), "model")
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run_id).info.artifact_uri}/model"
        made = client.create_model_version(name, source=source, run_id=run_id)
        client.set_registered_model_alias(name, ALIAS, made.version)
    return str(made.version)
