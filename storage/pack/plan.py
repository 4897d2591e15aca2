"""Decide which samples go into which shard before they are read.

The samples of a split are put in an order that depends only on split and count, and shard j gets
the j-th slice of `per_shard` samples. So shards do not wait for each other, and a class-sorted
source does not become class-sorted shards. `per_shard` follows from the sizes of the first samples
in that order: shards become a little smaller than `shard_bytes`, one in a hundred a little larger.

If samples are stored in blocks that are read as a whole (parquet), blocks are shuffled instead, and
then the samples within each shard: a shard reads whole blocks, except for its first and last.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from storage.errors import BadSource
from storage.pack.source import LeftOut, Source, hash_of, read_labelled
from storage.permutation import Permutation
from storage.resized import Resized
from storage.tar_header import BLOCK

_LAYOUT = "1"  # changes with the bytes that the packer makes of a source
_MEASURED = 512
_MEASURED_RESIZED = 64  # each is decoded and encoded, before the shards that do so in parallel
_RESIZING_COST = 32  # resizing makes some 4 MiB/s, storing as it is 130
_RECORD = 20 * BLOCK  # a tar's length is a multiple of it
_END = 2 * BLOCK


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A planned shard: the places [start, stop) in the order of its split."""

    split: str
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """The tar's name."""
        return f"{self.split}-{self.number:06d}.tar"

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """How one split is cut into shards."""

    samples: int
    per_shard: int
    sample_bytes: int
    """Mean bytes of a sample in a tar, as measured."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a source is cut into shards; `packing.json` while it is packed."""

    identity: str
    """Hash of the source and everything else that determines the bytes of the shards."""
    splits: Mapping[str, SplitPlan]
    resized: Resized | None = None
    """How large images are made smaller."""

    @property
    def slices(self) -> list[Slice]:
        """All shards, in order."""
        return [
            Slice(
                split=split,
                number=number,
                start=start,
                stop=min(start + plan.per_shard, plan.samples),
            )
            for split, plan in self.splits.items()
            for number, start in enumerate(range(0, plan.samples, plan.per_shard))
        ]

    def work_bytes(self, slices: list[Slice]) -> int:
        """About how many bytes could be stored as they are while some shards are made."""
        made = sum(len(one) * self.splits[one.split].sample_bytes for one in slices)
        return made * (_RESIZING_COST if self.resized else 1)

    def to_json(self) -> bytes:
        """The bytes of packing.json."""
        splits = {name: asdict(split) for name, split in self.splits.items()}
        content: dict[str, Any] = {"identity": self.identity, "splits": splits}
        if self.resized:
            content["resized"] = asdict(self.resized)
        return json.dumps(content, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "Plan | None":
        """Parse the output of `to_json`; None for anything else."""
        try:
            content = json.loads(data)
            splits = {name: SplitPlan(**split) for name, split in content["splits"].items()}
            resized = Resized.read(content)
            return cls(identity=content["identity"], splits=splits, resized=resized)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def identity_of(source: Source, shard_bytes: int) -> str:
    """Hash of the input: shards of an interrupted run are kept only if it is the same."""
    counts = json.dumps([list(source.classes), dict(source.splits)])
    return hash_of(_LAYOUT, type(source).__name__, source.identity(), counts, str(shard_bytes))


def make_plan(source: Source, shard_bytes: int) -> Plan:
    """Read some samples of each split and cut it. Raises BadSource if none can be packed."""
    splits = {
        split: _split_plan(source, split, total, shard_bytes)
        for split, total in source.splits.items()
    }
    return Plan(identity=identity_of(source, shard_bytes), splits=splits, resized=source.resized)


def order(source: Source, one: Slice) -> np.ndarray:
    """The samples of a shard as they are written: int64 [len(one)], positions in the split."""
    total = source.splits[one.split]
    key = f"pack/{one.split}/{total}"
    places = np.arange(one.start, one.stop)  # [n]
    edges = source.blocks(one.split)  # [B + 1]
    if edges is None:
        return Permutation(total, key).forward(places)
    found = _in_blocks(edges, places, key)
    return found[Permutation(len(one), f"{key}/{one.number}").forward(np.arange(len(one)))]


def _in_blocks(edges: np.ndarray, places: np.ndarray, key: str) -> np.ndarray:
    """Positions at some places of the shuffled blocks: int64 [n] -> int64 [n]."""
    blocks = Permutation(len(edges) - 1, key).forward(np.arange(len(edges) - 1))  # [B]
    sizes = np.diff(edges)[blocks]  # [B]
    ends = np.cumsum(sizes)  # [B]
    which = np.searchsorted(ends, places, side="right")  # [n]
    return edges[blocks[which]] + places - (ends[which] - sizes[which])


def _split_plan(source: Source, split: str, total: int, shard_bytes: int) -> SplitPlan:
    measured = _MEASURED_RESIZED if source.resized else _MEASURED
    sizes = list(islice(_sizes(source, split, total), measured))
    mean = sum(sizes) / len(sizes)
    return SplitPlan(
        samples=total,
        per_shard=per_shard(sizes, shard_bytes),
        sample_bytes=round(mean),
    )


def per_shard(sizes: list[int], shard_bytes: int) -> int:
    """How many samples fit, by the sizes of some: two standard errors below the limit.

    Integers and single roundings: the same on every machine.
    """
    room = shard_bytes // _RECORD * _RECORD - _END
    count, total = len(sizes), sum(sizes)
    mean = total / count
    spread = math.sqrt(count * sum(size * size for size in sizes) - total * total) / count
    averaged = max(1.0, min(count, room / mean))  # samples over which chance evens out
    return max(1, int(room // (mean + 2 * spread / math.sqrt(averaged))))


def _sizes(source: Source, split: str, total: int) -> Iterator[int]:
    """Bytes in a tar of the packable samples, in the order of the split."""
    first: LeftOut | None = None
    packable = False
    for start in range(0, total, _MEASURED):
        one = Slice(split=split, number=0, start=start, stop=min(start + _MEASURED, total))
        for i in np.sort(order(source, one)).tolist():
            try:
                sample = read_labelled(source, split, i)
            except LeftOut as error:
                first = first or error
                continue
            packable = True
            yield tar_bytes(len(sample.data))
    if not packable:
        why = f"{first.what}: {first.reason}" if first else "the split is empty"
        raise BadSource(f"no sample of split {split!r} could be packed; the first: {why}")


def tar_bytes(image_bytes: int) -> int:
    """Bytes of a sample in a tar: two headers, the label's block, the image in whole blocks."""
    return 3 * BLOCK - image_bytes // -BLOCK * BLOCK
