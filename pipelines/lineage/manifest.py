"""What a committed attempt says of itself: a frozen value, read from and written as manifest.json.

A training stage and an evaluation write the same fields; an evaluation also says which model and
weights it measured.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipelines.recipes.stage import Data
from storage import weights
from storage.errors import CorruptWeights
from vit import Config, config_from_dict

WEIGHTS, AVERAGE = "weights.safetensors", "weights_ema.safetensors"
_LENIENT = ConfigDict(extra="ignore")  # a later version may write more


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the attempt."""

    __pydantic_config__ = _LENIENT

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Parent:
    """What a child remembers of the attempt it started from."""

    __pydantic_config__ = _LENIENT

    stage: str
    fingerprint: str
    attempt: str
    weights_sha256: str
    mlflow_run_id: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The public checkpoint, or the stage of another place, that a stage started from."""

    __pydantic_config__ = _LENIENT

    uri: str
    """Where it lay at that time."""
    sha256: str
    """Of its content, which is part of the stage's fingerprint in place of where it lay."""


@dataclass(frozen=True, kw_only=True)
class DatasetName:
    """The dataset that was trained or measured on."""

    __pydantic_config__ = _LENIENT

    name: str = ""
    digest: str


@dataclass(frozen=True, kw_only=True)
class MeasuredWeights:
    """The weights that an evaluation measured."""

    __pydantic_config__ = _LENIENT

    uri: str
    average: str
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The lineage of an attempt, its step, metrics and files."""

    __pydantic_config__ = _LENIENT

    format_version: int = 1
    recipe: str = ""
    run: str = ""
    stage: Mapping[str, Any]
    """The whole stage (or the protocol of an evaluation) as JSON values, its name under `name`."""
    model: Mapping[str, Any] | None = None
    """The model that an evaluation measured; a training stage has it in `stage`."""
    fingerprint: str = ""
    attempt: str = ""
    parent: Parent | None = None
    init: Checkpoint | None = None
    weights: MeasuredWeights | None = None
    dataset: DatasetName | None = None
    mlflow_run_id: str = ""
    git_commit: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    started: str = ""
    """UTC, as in 2026-01-31T12:00:00+00:00."""
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)

    @property
    def stage_name(self) -> str:
        """Name of the stage."""
        return str(self.stage.get("name", ""))

    def config(self) -> Config:
        """The model. Raises CorruptWeights if it is of another version."""
        try:
            return config_from_dict(dict(self.model or self.stage["model"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptWeights(f"manifest of {self.stage_name}: stage.model: {error}") from None

    def data(self) -> Data:
        """The images it was trained and evaluated on. Raises CorruptWeights."""
        try:
            return TypeAdapter(Data).validate_json(json.dumps(self.stage["data"]))
        except (KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CorruptWeights(f"manifest of {self.stage_name}: stage.data: {reason}") from None

    def tags(self) -> dict[str, str]:
        """Tags of the MLflow run: the commit, and the parent's record."""
        commit = {"git_commit": self.git_commit} if self.git_commit else {}
        parent = asdict(self.parent) if self.parent else {}
        return commit | {f"parent.{name}": value for name, value in parent.items()}

    def to_json(self) -> dict[str, Any]:
        """The values of manifest.json; what does not apply is left out."""
        values = asdict(self)
        optional = {
            "model": self.model,
            "init": self.init,
            "weights": self.weights,
            "files": self.files or None,
        }
        return {k: v for k, v in values.items() if optional.get(k, v) is not None or k == "parent"}


def manifest_from_json(values: Mapping[str, Any], where: str) -> Manifest:
    """Check the values of a manifest.json. Raises CorruptWeights, which names `where` and field."""
    try:
        return TypeAdapter(Manifest).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CorruptWeights(
            f"{where}/{weights.MANIFEST}: {key}: {first['msg']}, found {first['input']!r:.60}"
        ) from None


def read_manifest(uri: str) -> Manifest | None:
    """The manifest of an attempt, None where nothing is committed.

    Raises:
        storage.errors.CorruptWeights, Unavailable: it cannot be read.
    """
    values = weights.read_manifest(uri)
    return None if values is None else manifest_from_json(values, uri)
