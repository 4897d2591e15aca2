"""The manifest of a committed attempt: a frozen value, stored as manifest.json.

Training stages and evaluations write the same fields; an evaluation also records the model and the
weights that it measured.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipelines.lineage.best_evaluation import BestEvaluation, Value
from pipelines.recipes.data import Data
from storage import weights
from storage.errors import CorruptWeights
from vit import Config, config_from_dict

WEIGHTS, AVERAGE = "weights.safetensors", "weights_ema.safetensors"
ADAPTERS = "adapters.safetensors"


@dataclass(frozen=True, kw_only=True)
class File(Value):
    """Size and checksum of a file of the attempt."""

    name: str = ""
    """Name that it is stored under; empty where that is its own name."""
    bytes: int
    sha256: str

    def entry(self) -> dict[str, Any]:
        """Return its entry in manifest.json."""
        return {key: value for key, value in asdict(self).items() if value != ""}


@dataclass(frozen=True, kw_only=True)
class Parent(Value):
    """The attempt that a stage started from."""

    stage: str
    fingerprint: str
    attempt: str
    weights_sha256: str
    mlflow_run_id: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Value):
    """The public checkpoint, or the stage of another place, that a stage started from."""

    uri: str
    """Where it lay at that time."""
    sha256: str
    """Of its content, which is part of the stage's fingerprint in place of where it lay."""
    inferred_from: Mapping[str, str] = field(default_factory=dict)
    """What each field of its model's config is known from, as `vit.infer_config` says; empty where
    it leaves one open."""


@dataclass(frozen=True, kw_only=True)
class DatasetName(Value):
    """The dataset that was trained on or evaluated on."""

    name: str = ""
    digest: str


@dataclass(frozen=True, kw_only=True)
class MeasuredWeights(Value):
    """The weights that an evaluation measured."""

    uri: str
    average: str
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest(Value):
    """Lineage, step, metrics and files of an attempt."""

    format_version: int = 1
    recipe: str = ""
    run: str = ""
    stage: Mapping[str, Any]
    """Settings of the stage (or an evaluation's protocol) as JSON values; `name` is its name."""
    model: Mapping[str, Any] | None = None
    """The model that an evaluation measured; a training stage's is in `stage`."""
    fingerprint: str = ""
    attempt: str = ""
    parent: Parent | None = None
    init: Checkpoint | None = None
    weights: MeasuredWeights | None = None
    dataset: DatasetName | None = None
    mlflow_run_id: str = ""
    git_commit: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    arithmetic: Mapping[str, Any] = field(default_factory=dict)
    """What decides the last bits of trained weights beside `stage`, of the last group of workers:
    device, workers, micro_batch, and of the place zero_level, offload_optimizer, compile,
    recompute_activations, deterministic."""
    started: str = ""
    """Start time in UTC, such as 2026-01-31T12:00:00+00:00."""
    step: int = 0
    """Steps that are in the weights."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: BestEvaluation | None = None
    """How the weights were chosen, where they are not simply those of the last step."""
    files: Mapping[str, File] = field(default_factory=dict)

    @property
    def trained_steps(self) -> int:
        """Steps that were trained, whether they are in the weights or not."""
        return self.best.trained_steps if self.best else self.step

    @property
    def stage_name(self) -> str:
        """Name of the stage."""
        return str(self.stage.get("name", ""))

    def config(self) -> Config:
        """Return the model's config. Raises CorruptWeights if this version cannot read it."""
        try:
            return config_from_dict(dict(self.model or self.stage["model"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptWeights(f"manifest of {self.stage_name}: stage.model: {error}") from None

    def data(self) -> Data:
        """Return the data it was trained and evaluated on. Raises CorruptWeights."""
        try:
            return TypeAdapter(Data).validate_json(json.dumps(self.stage["data"]))
        except (KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CorruptWeights(f"manifest of {self.stage_name}: stage.data: {reason}") from None

    def tags(self) -> dict[str, str]:
        """Return tags for the MLflow run: the git commit, and the parent's fields."""
        commit = {"git_commit": self.git_commit} if self.git_commit else {}
        parent = asdict(self.parent) if self.parent else {}
        return commit | {f"parent.{name}": value for name, value in parent.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the values of manifest.json, without fields that do not apply."""
        values = asdict(self)
        values["files"] = {name: file.entry() for name, file in self.files.items()}
        optional = {
            "model": self.model,
            "init": self.init,
            "weights": self.weights,
            "best": self.best,
        }
        return {k: v for k, v in values.items() if optional.get(k, v) is not None or k == "parent"}


def manifest_from_json(values: Mapping[str, Any], where: str) -> Manifest:
    """Check the values of a manifest.json. Raises CorruptWeights, naming `where` and the field."""
    try:
        return TypeAdapter(Manifest).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CorruptWeights(
            f"{where}/{weights.MANIFEST}: {key}: {first['msg']}, found {first['input']!r:.60}"
        ) from None


def read_manifest(uri: str) -> Manifest | None:
    """Read the manifest of an attempt; None if the attempt is not committed.

    Raises:
        storage.errors.CorruptWeights, Unavailable: it cannot be read.
    """
    values = weights.read_manifest(uri)
    return None if values is None else manifest_from_json(values, uri)
