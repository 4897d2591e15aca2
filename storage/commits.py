"""Commits: files, and a manifest with their sizes and checksums that is written last.

    <uri>/NAME            a file
          manifest.json   written LAST: its presence is the commit; size and checksum of each file

A folder without manifest.json counts as empty, whatever else is in it, and a commit is never
overwritten. `Promise.name` is the name that a file is stored under. Where two writers may write at
once, each uses its own names, so that the manifest of one never promises the bytes of the other.
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
    """What a manifest promises about one file."""

    name: str
    """Name that the file is stored under. Older manifests have none: then it is the file's own."""
    bytes: int
    sha256: str

    @classmethod
    def of(cls, file: str, entry: Mapping[str, Any]) -> "Promise":
        """Read an entry of "files". Raises BadValue."""
        name = text_of(entry, "name") if "name" in entry else file
        # An evaluation has its pictures in a folder beside the manifest; nothing lies above it.
        if "\x00" in name or any(part in ("", ".", "..") for part in name.split("/")):
            raise BadValue(f"{name!r} is not the name of a file beside the manifest")
        return cls(name=name, bytes=whole_of(entry, "bytes"), sha256=text_of(entry, "sha256"))


def publish(
    uri: str, manifest: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Commit files that are stored already, name -> {"bytes", "sha256"}; return the manifest.

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
            f"{store.uri} was committed by another writer at the same time, and the files there are"
            " that writer's: give each attempt its own folder"
        ) from None
    return whole


def check_finite(uri: str, manifest: Mapping[str, Any]) -> None:
    """Raise BadInput, naming the values, if a manifest has NaN or infinities: JSON has none."""
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
    """Read the manifest; None if nothing is committed. Raises CorruptWeights, Unavailable."""
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
    """A local file with the promised size and checksum: the store's own, or a copy in `folder`.

    Raises CorruptWeights if the file in the store is wrong, or Unavailable if only this machine's
    copy is.
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
            f"{store.uri}/{promised.name} is intact, but the copy {path} is not: this machine's"
            " disk, memory or network is at fault"
        )
    raise CorruptWeights(damage)


def damage_of(uri: str) -> str | None:
    """Check a commit in its store: what is wrong with it, or None. No copy stays on this machine.

    A worker that could not read a commit proves nothing: perhaps only that worker's disk was full.
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
    """What is wrong with a file in its store, or None: a wrong size, or the same wrong checksum in
    two readings."""
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
        raise Unavailable(
            f"{where} had different content in two readings: a disk or a network is at fault"
        )
    return (
        f"{where} has sha256 {found}, its manifest says {promised.sha256}: it is incomplete or was"
        " changed"
    )


def _missing(store: ObjectStore, promised: Promise) -> str:
    return f"{store.uri}/{promised.name} is missing, but its manifest is there"
