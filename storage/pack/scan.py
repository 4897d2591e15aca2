"""Read one tar of somebody else's front to back: the index row of each sample, and a checksum.

A sample is an image and a label: `KEY.jpg` (.jpeg .png .webp) and `KEY.cls`, or a `.json` with a
number named "label". What cannot be used is left out by name.
"""

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from storage.dataset import Shard
from storage.decode import probe
from storage.errors import BadImage, BadSource
from storage.index import INDEX_ROW, name_hash
from storage.objects import open_store
from storage.pack.parts import Part, write_part
from storage.store import ObjectStore
from storage.tar import Member, members

IDENTITY = "tar 1"  # of a part: changes with what is read from a tar
_IMAGES = ("jpg", "jpeg", "png", "webp")
_CHUNK_BYTES = 8 << 20
_LABEL = re.compile(rb"\d{1,9}\n?")


@dataclass(frozen=True)
class ScanTar:
    """A task: called with a tar's name it reads it once and leaves its part beside it."""

    uri: str

    def __call__(self, name: str) -> tuple[Shard, str | None]:
        """The tar as a shard, and why it is torn, if it is: then no part is left."""
        store = open_store(self.uri)
        scan = _Scan(name=name)
        source = _Stream(store, name)
        try:
            for key, group in _samples(members(source.read), scan):
                _add(scan, key, group)
        except BadSource as error:
            return Shard(name=name, bytes=source.size, samples=0, sha256=""), str(error)
        shard = Shard(
            name=name,
            bytes=source.size,
            samples=len(scan.rows),
            sha256=source.hash.hexdigest(),
        )
        left_out = tuple((f"{name}: {what}", why) for what, why in scan.left_out)
        rows = np.array(scan.rows, dtype=INDEX_ROW)
        write_part(store, Part(identity=IDENTITY, shard=shard, rows=rows, left_out=left_out))
        return shard, None


@dataclass
class _Scan:
    """What one tar holds."""

    name: str
    rows: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


class _Stream:
    """An object front to back in large ranged reads, hashed on the way."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self.size = store.size(name)
        self.hash = sha256()
        self._store, self._name = store, name
        self._fetched, self._ahead = 0, b""

    def read(self, count: int) -> bytes:
        while len(self._ahead) < count and self._fetched < self.size:
            stop = min(self._fetched + max(_CHUNK_BYTES, count), self.size)
            chunk = self._store.read_range(self._name, self._fetched, stop)
            self.hash.update(chunk)
            self._ahead, self._fetched = self._ahead + chunk, stop
        data, self._ahead = self._ahead[:count], self._ahead[count:]
        return data


def _samples(found: Iterator[Member], scan: _Scan) -> Iterator[tuple[str, dict[str, Member]]]:
    """Members of equal key that follow each other: suffix -> member."""
    key, group = "", dict[str, Member]()
    seen: set[str] = set()
    for member in found:
        if member.refused is not None:
            scan.left_out.append((member.name, member.refused))
            continue
        folder, slash, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")  # WebDataset's rule: at the first dot
        if folder + slash + stem != key:
            yield key, group
            seen.add(key)
            key, group = folder + slash + stem, {}
        if key in seen or suffix.lower() in group:
            scan.left_out.append((member.name, "a sample of this key came before"))
            continue
        group[suffix.lower()] = member
    yield key, group


def _add(scan: _Scan, key: str, group: dict[str, Member]) -> None:
    """Add the index row of one sample, or why it is left out."""
    dotted = [s for s in group if "." in s and s.rpartition(".")[2] in _IMAGES]
    images = [suffix for suffix in _IMAGES if suffix in group]
    label = _label(group)
    if not (dotted or images or isinstance(label, int)):
        return  # a README is no lost sample
    if dotted:
        reason = f"dotted names ({', '.join(dotted)}) share one key: rename them"
    elif len(images) != 1:
        reason = f"{len(images)} images under one key" if images else "no image"
    elif isinstance(label, str):
        reason = label
    else:
        image = group[images[0]]
        reason = _image_refusal(image.data)
        if reason is None:
            name = name_hash(image.header_name)
            row = (image.offset, name, len(image.data), zlib.crc32(image.data), 0, label)
            scan.rows.append(row)
            return
    scan.left_out.append((key, reason))


def _image_refusal(data: bytes) -> str | None:
    try:
        probe(data)
    except BadImage as error:
        return str(error)
    return None


def _label(group: dict[str, Member]) -> int | str:
    """The label, or what is wrong with it."""
    if "cls" in group:
        text = group["cls"].data
        if not _LABEL.fullmatch(text):
            return f"label {text[:20]!r} is not a class number"
        return int(text)
    if "json" not in group:
        return "no label (.cls)"
    try:
        label = json.loads(group["json"].data)["label"]
    except (ValueError, KeyError, TypeError):
        return "no number named label in its .json"
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < 10**9:
        return f"label {str(label)[:20]!r} is not a class number"
    return label
