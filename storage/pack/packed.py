"""Pack a dataset that was packed or indexed before, with smaller images, to another place.

Neighbours are read together: one request to S3 brings a run of images, not one.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from storage.dataset import Dataset, load_dataset
from storage.errors import BadImage, BadSample, BadSource
from storage.index import load_index
from storage.pack.source import LeftOut, Sample, Source, hash_of
from storage.pack.stored import Rule
from storage.reader import Damaged, RawSample, read_samples
from storage.resized import Resized
from storage.store import ObjectStore
from storage.uri import parse

_RUN = 16  # samples, about 2 MB of photographs


class Packed(Source):
    """The images of a dataset."""

    def __init__(self, dataset: Dataset, *, rule: Rule) -> None:
        self._uri, self._digest = dataset.uri, dataset.digest
        self._classes = dataset.classes
        self._splits = {split: dataset.samples(split) for split in dataset.splits}
        self._left_out = len(dataset.left_out)
        self._rule = rule
        self._run: dict[int, RawSample | BadSample] = {}
        self._held: tuple[str, int] | None = None
        """Split and number of the run that is in memory."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the dataset."""
        return self._classes

    @property
    def splits(self) -> Mapping[str, int]:
        """Those of the dataset."""
        return self._splits

    @property
    def notes(self) -> Mapping[str, int]:
        """How many samples are missing already."""
        what = f"samples left out before, named in {self._uri}/dataset.json"
        return {what: self._left_out} if self._left_out else {}

    @property
    def resized(self) -> Resized | None:
        """How large images are made smaller, by the rule."""
        return self._rule.resized

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folder of the dataset; none if it is in a bucket."""
        location = parse(self._uri)
        return () if location.bucket is not None else (Path(location.path).absolute(),)

    def identity(self) -> str:
        """The dataset's digest, the rule, and what lies together."""
        return hash_of(self._digest, self._rule.identity(), str(_RUN))

    def blocks(self, split: str) -> np.ndarray:
        """Runs of samples, so that a shard does not consist of images from everywhere."""
        total = self._splits[split]
        return np.append(np.arange(0, total, _RUN), total)

    def read(self, split: str, i: int) -> Sample:
        """One image. Its position is added to its key: tars of others may use a key again."""
        if self._held != (split, i // _RUN):
            self._run = self._read_run(split, i // _RUN)
            self._held = (split, i // _RUN)
        raw = self._run[i]
        if isinstance(raw, BadSample):
            raise LeftOut(f"{raw.shard}: {raw.key}", raw.reason)
        try:
            stored = self._rule(raw.data)
        except BadImage as error:
            raise LeftOut(f"{raw.shard}: {raw.key}", str(error)) from None
        return Sample(
            key=f"{raw.key}-{i}",
            suffix=stored.suffix,
            data=stored.data,
            label=int(load_index(self._dataset, split).labels[i]),
            notes=stored.notes,
        )

    def _read_run(self, split: str, number: int) -> dict[int, RawSample | BadSample]:
        """By position in the split."""
        start = number * _RUN
        positions = np.arange(start, min(start + _RUN, self._splits[split]))
        damaged: list[Damaged] = []
        index = load_index(self._dataset, split)
        whole = list(read_samples(self._store, index, positions, damaged=damaged))
        found: dict[int, RawSample | BadSample] = {start + raw.request: raw for raw in whole}
        return found | {start + one.request: one.error for one in damaged}

    @cached_property
    def _dataset(self) -> Dataset:
        """The manifest, read once in each process. Raises BadSource if it was replaced."""
        dataset = load_dataset(self._uri)
        if dataset.digest != self._digest:
            raise BadSource(f"{self._uri} was replaced while it was packed again")
        return dataset

    @cached_property
    def _store(self) -> ObjectStore:
        return self._dataset.shard_store()

    def __getstate__(self) -> dict[str, object]:
        opened = ("_dataset", "_store")  # they do not pickle, and each process opens its own
        kept = {name: value for name, value in self.__dict__.items() if name not in opened}
        return {**kept, "_run": {}, "_held": None}
