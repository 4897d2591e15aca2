"""Take over WebDataset tars that someone else wrote: nothing is rewritten, an index is put beside
them.

Every byte is read once, for the checksums that let a later reader know that a shard has changed;
the tars may lie in a folder or a bucket. A sample is an image and a label: `KEY.jpg` (.jpeg .png
.webp) and `KEY.cls`, or a `.json` with a number named "label". What cannot be used is left out by
name; a torn tar is an error, because nobody knows what it lost.
"""

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np

from storage.dataset import Dataset, IndexFile, Shard
from storage.decode import probe
from storage.errors import BadImage, BadSource
from storage.index import INDEX_ROW, name_hash, save_index
from storage.objects import ObjectStore, open_store
from storage.pack.publish import finish, present, require_same
from storage.tar import Member, members

_IMAGES = ("jpg", "jpeg", "png", "webp")
_CHUNK_BYTES = 8 << 20
_LABEL = re.compile(rb"\d{1,9}\n?")


def index_tars(
    uri: str,
    splits: Mapping[str, Sequence[str]],
    *,
    classes: Sequence[str] | None = None,
    force: bool = False,
) -> Dataset:
    """Index the tars under a place: split -> shell patterns of their names ("train-*.tar").

    `classes` names the labels 0, 1, ...; by default they are their numbers. Raises BadSource with
    every torn or unmatched tar, DatasetExists, Unavailable.
    """
    store = open_store(uri)
    names = sorted(key for key in store.list() if key.endswith(".tar"))
    chosen = {split: _matching(store, names, patterns) for split, patterns in splits.items()}
    with ThreadPoolExecutor(max(2, store.parallel_reads)) as pool:
        scans = {
            split: list(pool.map(partial(_scan, store), shards)) for split, shards in chosen.items()
        }
    _raise_torn(store, [scan for several in scans.values() for scan in several])
    found = max(scan.classes for several in scans.values() for scan in several)
    if classes is not None and len(classes) < found:
        raise BadSource(
            f"{store.uri} has labels up to {found - 1}, {len(classes)} classes were named"
        )
    left_out: list[tuple[str, str]] = []
    tables = {split: _table(split, several, left_out) for split, several in scans.items()}
    with TemporaryDirectory(prefix="vit-on-ray-pack-") as folder:
        paths = {
            split: save_index(Path(folder), split, rows) for split, (_, rows) in tables.items()
        }
        dataset = Dataset(
            uri=store.uri,
            classes=tuple(classes) if classes is not None else tuple(str(i) for i in range(found)),
            splits=MappingProxyType({split: shards for split, (shards, _) in tables.items()}),
            indexes=MappingProxyType({split: IndexFile.of(path) for split, path in paths.items()}),
            left_out=tuple(left_out),
            in_place=True,
        )
        there = None if force else present(store)
        if there is not None:
            require_same(store, there, dataset.digest == there.digest)
            return there
        finish(store, dataset, paths)
    return dataset


@dataclass
class _Scan:
    """What one tar holds."""

    name: str
    bytes: int = 0
    sha256: str = ""
    torn: str | None = None
    rows: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    @property
    def classes(self) -> int:
        return 1 + max((row[-1] for row in self.rows), default=-1)


def _scan(store: ObjectStore, name: str) -> _Scan:
    """Read a tar once: checksum of the whole, index row of each sample."""
    source = _Stream(store, name)
    scan = _Scan(name=name, bytes=source.size)
    try:
        for key, group in _samples(members(source.read), scan):
            _add(scan, key, group)
    except BadSource as error:
        scan.torn = str(error)
        return scan
    scan.sha256 = source.hash.hexdigest()
    return scan


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


def _matching(store: ObjectStore, names: list[str], patterns: Sequence[str]) -> list[str]:
    found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not found:
        raise BadSource(
            f"no tar under {store.uri} matches {', '.join(patterns)}; there are {len(names)}"
            + (f", such as {names[0]}" if names else "")
        )
    return found


def _raise_torn(store: ObjectStore, scans: list[_Scan]) -> None:
    torn = [f"{scan.name}: {scan.torn}" for scan in scans if scan.torn is not None]
    if torn:
        raise BadSource(
            f"{len(torn)} of {len(scans)} tars under {store.uri} cannot be used. "
            + "; ".join(torn[:20])
        )


def _table(
    split: str, scans: list[_Scan], left_out: list[tuple[str, str]]
) -> tuple[tuple[Shard, ...], np.ndarray]:
    """Shards and index rows of a split. Equal keys in different tars are different samples."""
    shards: list[Shard] = []
    tables: list[np.ndarray] = []
    for scan in scans:
        left_out.extend((f"{scan.name}: {what}", why) for what, why in scan.left_out)
        table = np.array(scan.rows, dtype=INDEX_ROW)
        table["shard"] = len(shards)
        tables.append(table)
        shards.append(
            Shard(name=scan.name, bytes=scan.bytes, samples=len(table), sha256=scan.sha256)
        )
    rows = np.concatenate(tables)
    if not len(rows):
        first = left_out[0] if left_out else "they are empty"
        raise BadSource(f"the tars of split {split!r} hold no usable sample: {first}")
    return tuple(shards), rows
