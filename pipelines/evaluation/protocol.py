"""The protocol: what is measured, on which images and how, as one frozen value.

The numbers depend on it, the weights and the dataset's digest; these name an evaluation, as its
settings name a stage.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipelines.evaluation import fewshot, neighbours, probe
from pipelines.recipes.data import check_dataset_name
from pipelines.recipes.errors import Mistake
from pipelines.recipes.fingerprint import crop_values, typed_values
from storage.columns import StreamSpec
from storage.decode import Crop
from storage.selection import EVERYTHING, Selection

FORMAT_VERSION = 1
Evaluator = Literal["classification", "few-shot", "knn", "probe"]


@dataclass(frozen=True, kw_only=True)
class Knn:
    """k nearest neighbours."""

    k: int = neighbours.K
    """Number of neighbours that vote."""
    temperature: float = neighbours.TEMPERATURE
    """Each vote has weight exp(cosine similarity / temperature)."""

    def __post_init__(self) -> None:
        if self.k < 1 or not self.temperature > 0:
            raise Mistake(
                f"knn: wanted k at least 1 and a positive temperature, found {self.k} and"
                f" {self.temperature}"
            )


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Few-shot linear regression."""

    shots: tuple[int, ...] = fewshot.SHOTS
    """Training images per class."""
    seeds: tuple[int, ...] = fewshot.SEEDS
    """Seeds of the draw of those images."""
    l2: tuple[float, ...] = (fewshot.L2,)
    """Strengths of the l2 regularisation; results are reported for each."""

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1 or not self.seeds:
            raise Mistake(
                f"few_shot: wanted shots of at least 1 and a seed, found {self.shots} and"
                f" {self.seeds}"
            )
        if not self.l2 or not min(self.l2) > 0:
            raise Mistake(f"few_shot.l2: wanted more than 0, found {self.l2}")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Linear probe."""

    l2: tuple[float, ...] = probe.L2
    """Strengths of the l2 regularisation; the best on held-out training images is used."""

    def __post_init__(self) -> None:
        if not self.l2 or not min(self.l2) > 0:
            raise Mistake(f"probe.l2: wanted more than 0, found {self.l2}")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything but the weights."""

    evaluators: tuple[Evaluator, ...] = ("classification",)
    """What is measured."""
    dataset: str
    """Folder of the packed dataset under `place.data_root`."""
    split: str = "val"
    """Split that is measured on."""
    selection: Selection = EVERYTHING
    """Part of that split, and the classes its labels are numbered in."""
    train_split: str = "train"
    """Split that k-NN, probe and few-shot learn from."""
    crop: Crop
    """How an image is cut; of both splits."""
    real_sha256: str | None = None
    """Of the file of several right labels."""
    knn: Knn = field(default_factory=Knn)
    few_shot: FewShot = field(default_factory=FewShot)
    probe: Probe = field(default_factory=Probe)
    batch: int = 64
    """Images that go through the network at once: shows in the last bits of its outputs."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network."""

    def __post_init__(self) -> None:
        check_dataset_name(self.dataset)
        if self.batch < 1:
            raise Mistake(f"batch: wanted at least 1, found {self.batch}")
        if not self.evaluators or len(set(self.evaluators)) != len(self.evaluators):
            raise Mistake(f"evaluators: wanted at least one, none twice, found {self.evaluators}")

    @property
    def answers(self) -> bool:
        """Whether the head is looked at."""
        return "classification" in self.evaluators

    @property
    def features(self) -> bool:
        """Whether what goes into the head is looked at."""
        return self.evaluators != ("classification",)

    def test_spec(self, dataset_uri: str) -> StreamSpec:
        """The images that are measured on."""
        return StreamSpec(
            dataset=dataset_uri,
            split=self.split,
            selection=self.selection,
            crop=self.crop,
            global_batch=self.batch,
            tail="carry",
        )

    def train_specs(self, dataset_uri: str) -> list[StreamSpec]:
        """The images that are learned from: all of the classes, or if few-shot is alone only those
        that its seeds draw (the same rule draws them in `storage.selection`)."""
        if not self.features:
            return []
        classes = Selection(classes=self.selection.classes, labels=self.selection.labels)
        every_image = replace(
            self.test_spec(dataset_uri), split=self.train_split, selection=classes
        )
        if {"knn", "probe"} & set(self.evaluators):
            return [every_image]
        most = max(self.few_shot.shots)
        return [
            replace(every_image, selection=replace(classes, per_class=most, seed=seed))
            for seed in self.few_shot.seeds
        ]


def fingerprint(
    protocol: Protocol, *, model: Mapping[str, Any], weights_sha256: str, dataset_digest: str
) -> str:
    """Name of an evaluation's content: 16 hex digits."""
    content = {
        "evaluation_format": FORMAT_VERSION,
        "protocol": typed_values(protocol) | {"crop": crop_values(protocol.crop)},
        "model": dict(model),
        "weights": weights_sha256,
        "dataset": dataset_digest,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
