"""A dataset is WebDataset tars, one index per split, and `dataset.json`, which is written last.

    <uri>/train-000000.tar ...   samples KEY.jpg (.png .webp) + KEY.cls
          index-train.npy        32 bytes per sample: its tar, the place of its image, its label
          dataset.json           format version, classes, splits -> shards, digest

The digest is a hash of the content (shard checksums, index, classes), never of hosts, paths or
times.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from storage.checksum import sha256_file
from storage.errors import BadDataset, DatasetNotFound, ObjectNotFound
from storage.json_values import (
    BadValue,
    list_of,
    object_of,
    parse_object,
    text_of,
    texts_of,
    whole_of,
)
from storage.mixture import Member
from storage.objects import open_store
from storage.pack_command import pack_command
from storage.resized import Resized
from storage.store import ObjectStore
from storage.uri import parse

FORMAT_VERSION = 1
MANIFEST = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file of a split."""

    name: str
    bytes: int
    samples: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class IndexFile:
    """Name, size and checksum of a split's index file."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "IndexFile":
        """Describe a local file."""
        return cls(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The manifest, read and checked."""

    uri: str
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Shard, ...]]
    indexes: Mapping[str, IndexFile]
    format_version: int = FORMAT_VERSION
    left_out: tuple[tuple[str, str], ...] = ()
    """Samples of the source that were not packed, and why. Not part of the digest."""
    notes: tuple[tuple[str, int], ...] = ()
    """What was done to samples of the source, and to how many. Not part of the digest."""
    in_place: bool = False
    """Whether the tars were written by other software and only indexed. Not part of the digest."""
    shards_at: str | None = None
    """URI of the tars, if they are not beside the manifest. Not part of the digest."""
    resized: Resized | None = None
    """How `pack.py --shorter-side` made large images smaller, if it was asked to."""
    mixed_from: tuple[Member, ...] = ()
    """The datasets whose shards these are, if it is a mixture (`pack.py mix`)."""

    @property
    def digest(self) -> str:
        """Hash of the content: equal for equal bytes, wherever they are stored."""
        content = {
            "format_version": self.format_version,
            "classes": list(self.classes),
            "splits": {
                name: {
                    "shards": [[s.bytes, s.samples, s.sha256] for s in shards],
                    "index": self.indexes[name].sha256,
                }
                for name, shards in self.splits.items()
            },
            **({"resized": asdict(self.resized)} if self.resized else {}),
            **(
                {"mixed_from": [[m.digest, dict(m.shards)] for m in self.mixed_from]}
                if self.mixed_from
                else {}
            ),
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def shard_store(self) -> ObjectStore:
        """The store that the shards are read from."""
        return open_store(self.shards_at or self.uri)

    def samples(self, split: str) -> int:
        """Number of samples in a split. Raises BadDataset if there is no such split."""
        return sum(shard.samples for shard in self.shards(split))

    def shards(self, split: str) -> tuple[Shard, ...]:
        """Shards of a split. Raises BadDataset if there is no such split."""
        if split not in self.splits:
            raise BadDataset(
                f"{self.uri} has no split {split!r}; it has {', '.join(sorted(self.splits))}"
            )
        return self.splits[split]


def to_json(dataset: Dataset) -> bytes:
    """The bytes of dataset.json. It does not contain its own URI, so that it can be copied."""
    content = {
        "format_version": dataset.format_version,
        "digest": dataset.digest,
        "classes": list(dataset.classes),
        "splits": {
            name: {
                "samples": dataset.samples(name),
                "index": asdict(dataset.indexes[name]),
                "shards": [asdict(shard) for shard in shards],
            }
            for name, shards in dataset.splits.items()
        },
        **({"in_place": True} if dataset.in_place else {}),
        **({"shards_at": dataset.shards_at} if dataset.shards_at else {}),
        **({"resized": asdict(dataset.resized)} if dataset.resized else {}),
        **({"mixed_from": [m.plain() for m in dataset.mixed_from]} if dataset.mixed_from else {}),
        **({"notes": [list(pair) for pair in dataset.notes]} if dataset.notes else {}),
        "left_out": [list(pair) for pair in dataset.left_out],
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def load_dataset(uri: str) -> Dataset:
    """Read and check the manifest. Raises DatasetNotFound, BadDataset, Unavailable."""
    store = open_store(uri)
    try:
        data = store.read(MANIFEST)
    except ObjectNotFound:
        raise DatasetNotFound(
            f"no {MANIFEST} under {store.uri}: nothing was packed there, or packing did not finish "
            f"(it is written last){_packed_near(uri)} - run: {pack_command(store.uri)}"
        ) from None
    return from_json(store.uri, data)


def _packed_near(uri: str) -> str:
    """Name the datasets in the nearest folder above that exists; nothing for a bucket."""
    location = parse(uri)
    if location.bucket is not None:
        return ""
    folder = next(each for each in Path(location.path).absolute().parents if each.is_dir())
    names = sorted(each.parent.name for each in folder.glob(f"*/{MANIFEST}"))
    last = uri.rstrip("/").rpartition("/")[2]
    perhaps = f" - perhaps {last} is meant" if last in names else ""
    return f"; packed in {folder}: {', '.join(names[:8])}{perhaps}" if names else ""


def from_json(uri: str, data: bytes) -> Dataset:
    """Parse dataset.json. Raises BadDataset, which names what is wrong with it."""
    where = f"{uri}/{MANIFEST}"
    try:
        content = parse_object(data)
        version = whole_of(content, "format_version")
    except BadValue as error:
        raise BadDataset(f"{where} is not a dataset manifest ({error}): pack it again") from None
    if version != FORMAT_VERSION:
        raise BadDataset(
            f"{where} has format version {version}, this code reads {FORMAT_VERSION}: pack it again"
        )
    try:
        dataset = _parse(uri, content)
        digest = text_of(content, "digest")
    except BadValue as error:
        raise BadDataset(f"{where} is damaged: {error}. Pack it again") from None
    if dataset.digest != digest:
        raise BadDataset(
            f"{where} was edited: it says digest {digest}, its content has {dataset.digest}. Pack"
            " it again"
        )
    return dataset


def _parse(uri: str, content: Mapping[str, Any]) -> Dataset:
    """Read the manifest's values and check their types. Raises BadValue."""
    splits = object_of(content, "splits")
    return Dataset(
        uri=uri,
        classes=tuple(texts_of(content, "classes")),
        splits=MappingProxyType({name: _shards(splits, name) for name in splits}),
        indexes=MappingProxyType({name: _index(splits, name) for name in splits}),
        notes=tuple(_notes(content)),
        in_place=content.get("in_place", False) is True,
        shards_at=_shards_at(content),
        resized=Resized.read(content),
        mixed_from=Member.read(content),
        left_out=tuple(_pairs(content)),
    )


def _shards(splits: Mapping[str, Any], name: str) -> tuple[Shard, ...]:
    shards = list_of(object_of(splits, name), "shards")
    return tuple(
        Shard(
            name=text_of(shard, "name"),
            bytes=whole_of(shard, "bytes"),
            samples=whole_of(shard, "samples"),
            sha256=text_of(shard, "sha256"),
        )
        for shard in shards
    )


def _index(splits: Mapping[str, Any], name: str) -> IndexFile:
    index = object_of(object_of(splits, name), "index")
    return IndexFile(
        name=text_of(index, "name"), bytes=whole_of(index, "bytes"), sha256=text_of(index, "sha256")
    )


def _shards_at(content: Mapping[str, Any]) -> str | None:
    """URI of the shards, if they are not beside the manifest."""
    if content.get("shards_at") is None:
        return None
    uri = text_of(content, "shards_at")
    parse(uri)  # raises BadUri
    return uri


def _notes(content: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Read the notes: what was done while packing, and to how many images."""
    for number, note in enumerate(list_of(content, "notes") if "notes" in content else []):
        if not isinstance(note, list) or len(note) != 2 or not isinstance(note[0], str):
            raise BadValue(f"notes[{number}] is not a pair of a text and a number")
        yield note[0], whole_of({"count": note[1]}, "count")


def _pairs(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Read what was left out, and why."""
    for number, pair in enumerate(list_of(content, "left_out")):
        texts = texts_of({f"left_out[{number}]": pair}, f"left_out[{number}]")
        if len(texts) != 2:
            raise BadValue(f"left_out[{number}] is not a pair")
        yield texts[0], texts[1]
