"""Commits: files that a manifest promises, which is written last.

    <uri>/NAME            a file
          manifest.json   written LAST: its presence is the commit; what each file holds

A folder without manifest.json is not there, whatever else lies in it, and a commit is never
overwritten. `Promise.name` is where a file lies. Where two writers may meet, it tells their files
apart, so that the manifest of one never promises the bytes of the other.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from storage.checksum import sha256_file, sha256_object
from storage.errors import (
    BadInput,
    CorruptWeights,
    ObjectChanged,
    ObjectExists,
    ObjectNotFound,
    Unavailable,
    WeightsExist,
)
from storage.json_values import BadValue, object_of, parse_object, text_of, whole_of
from storage.objects import open_store
from storage.store import ObjectStore

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a manifest says of one of its files."""

    name: str
    """Where the file lies. Older manifests do not say it: the file's own name."""
    bytes: int
    sha256: str

    @classmethod
    def of(cls, file: str, entry: Mapping[str, Any]) -> "Promise":
        """Read an entry of "files". Raises BadValue."""
        name = text_of(entry, "name") if "name" in entry else file
        if not name or "/" in name or "\x00" in name or name in (".", ".."):
            raise BadValue(f"{name!r} names no file beside the manifest")
        return cls(name=name, bytes=whole_of(entry, "bytes"), sha256=text_of(entry, "sha256"))


def publish(
    uri: str, manifest: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Commit files that lie there already, name -> {"bytes", "sha256"}; return the manifest.

    Raises WeightsExist, BadInput, Unavailable.
    """
    store = open_store(uri)
    check_finite(uri, manifest)
    whole = {**manifest, "files": files}
    text = json.dumps(whole, indent=1, allow_nan=False)
    try:
        store.write(MANIFEST, text.encode() + b"\n", if_absent=True)
    except ObjectExists:
        raise WeightsExist(
            f"{store.uri} was committed by another writer at the same time, and its files are"
            " that writer's: give each attempt a place of its own"
        ) from None
    return whole


def check_finite(uri: str, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that JSON cannot hold. Raises BadInput, which names the values."""
    found = [f"{where} is {value}" for where, value in _non_finite(manifest)]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise BadInput(f"nothing was committed at {uri}: {', '.join(found[:3])}{more}")


def _non_finite(value: object, where: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield where, value
    elif isinstance(value, Mapping):
        for key, each in cast("Mapping[object, object]", value).items():
            yield from _non_finite(each, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(cast("list[object]", value)):
            yield from _non_finite(each, f"{where}[{number}]")


def read_manifest(uri: str) -> dict[str, Any] | None:
    """The manifest, or None where nothing is committed. Raises CorruptWeights, Unavailable."""
    store = open_store(uri)
    try:
        data = store.read(MANIFEST)
    except ObjectNotFound:
        return None
    try:
        manifest = parse_object(data)
        files = object_of(manifest, "files")
        for file in files:
            Promise.of(file, object_of(files, file))
    except BadValue as error:
        raise CorruptWeights(
            f"{store.uri}/{MANIFEST} is not a manifest of weights ({error})"
        ) from None
    return manifest


def fetch(store: ObjectStore, file: str, entry: Mapping[str, Any], folder: Path) -> Path:
    """A local file that has the promised size and checksum: the store's own, or a copy in `folder`.

    Raises CorruptWeights, which is a verdict about the store, or Unavailable where only this
    machine's copy is wrong.
    """
    promised = Promise.of(file, entry)
    try:
        path = store.local(promised.name, folder)
    except ObjectNotFound:
        raise CorruptWeights(_missing(store, promised)) from None
    except ObjectChanged as error:
        raise CorruptWeights(str(error)) from None
    if path.stat().st_size == promised.bytes and sha256_file(path) == promised.sha256:
        return path
    damage = _damage(store, promised)
    if damage is None:
        raise Unavailable(
            f"{store.uri}/{promised.name} is whole, the copy {path} is not: this machine's disk,"
            " memory or network is at fault"
        )
    raise CorruptWeights(damage)


def damage_of(uri: str) -> str | None:
    """What is wrong with a commit in its store, or None; nothing of it is kept on this machine.

    A commit that a worker could not read is whole nevertheless where that worker's disk was full.
    Raises Unavailable.
    """
    store = open_store(uri)
    try:
        manifest = read_manifest(uri)
    except CorruptWeights as error:
        return str(error)
    if manifest is None:
        return f"{store.uri} has no {MANIFEST}"
    promises = [Promise.of(file, entry) for file, entry in manifest["files"].items()]
    for promised in promises:
        damage = _damage(store, promised)
        if damage is not None:
            return damage
    return None


def _damage(store: ObjectStore, promised: Promise) -> str | None:
    """What is wrong with a file in its store: its size, or a checksum that two readings give."""
    where = f"{store.uri}/{promised.name}"
    try:
        size = store.size(promised.name)
        if size != promised.bytes:
            return f"{where} has {size} bytes, its manifest says {promised.bytes}"
        found = sha256_object(store, promised.name)
        if found == promised.sha256:
            return None
        again = sha256_object(store, promised.name)
    except ObjectNotFound:
        return _missing(store, promised)
    except ObjectChanged as error:
        return str(error)
    if again == promised.sha256:
        return None
    if again != found:
        raise Unavailable(f"{where} reads differently each time: a disk or a network is at fault")
    return (
        f"{where} has sha256 {found}, its manifest says {promised.sha256}: it is torn or was"
        " changed"
    )


def _missing(store: ObjectStore, promised: Promise) -> str:
    return f"{store.uri}/{promised.name} is missing, its manifest is not"
