"""A small file beside each finished tar with its description, until all shards are finished.

    train-000003.tar            written first
    train-000003.tar.packing    a line of JSON, then its index rows: the shard is done

Both outlive a killed packer, and the next one keeps the shards whose part has its identity.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from storage.dataset import Shard
from storage.errors import NotWritable, ObjectNotFound
from storage.index import INDEX_ROW, save_index
from storage.store import ObjectStore

SUFFIX = ".packing"


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One finished shard. One without samples has no tar."""

    identity: str
    """Hash of the input and the plan that it was made from."""
    shard: Shard
    rows: np.ndarray
    """INDEX_ROW [samples]; their shard number is not known yet."""
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, int], ...] = ()
    """What was done to samples, and to how many."""


def write_part(store: ObjectStore, part: Part) -> None:
    """Record that a shard is finished."""
    about = {
        "identity": part.identity,
        "shard": asdict(part.shard),
        "left_out": [list(pair) for pair in part.left_out],
        "notes": [list(pair) for pair in part.notes],
    }
    store.write(part.shard.name + SUFFIX, json.dumps(about).encode() + b"\n" + part.rows.tobytes())


def read_part(store: ObjectStore, identity: str, name: str) -> Part | None:
    """Read the part of a shard; None if there is none with this identity."""
    try:
        line, _, rows = store.read(name + SUFFIX).partition(b"\n")
        about = json.loads(line)
        part = Part(
            identity=about["identity"],
            shard=Shard(**about["shard"]),
            rows=np.frombuffer(rows, dtype=INDEX_ROW),
            left_out=tuple((what, why) for what, why in about["left_out"]),
            notes=tuple((what, count) for what, count in about["notes"]),
        )
    except ObjectNotFound:
        return None
    except (ValueError, KeyError, TypeError):
        return None  # not ours, or garbled: the shard is made again
    whole = len(part.rows) == part.shard.samples and part.shard.name == name
    return part if whole and part.identity == identity else None


def finished(
    store: ObjectStore, identity: str, names: Sequence[str], *, tars: ObjectStore | None = None
) -> dict[str, Shard]:
    """Name -> shard for all that an earlier run finished and whose tar still has its size.

    `tars` is the store of the tars, if they are not beside their parts.
    """
    there = {key.removesuffix(SUFFIX) for key in store.list() if key.endswith(SUFFIX)}

    def look(name: str) -> Shard | None:
        part = read_part(store, identity, name)
        if part is None or not part.shard.bytes:
            return part and part.shard
        try:
            return part.shard if (tars or store).size(name) == part.shard.bytes else None
        except ObjectNotFound:
            return None

    with ThreadPoolExecutor(store.parallel_reads) as pool:
        shards = pool.map(look, [name for name in names if name in there])
        return {shard.name: shard for shard in shards if shard is not None}


def require_visible(store: ObjectStore, name: str) -> None:
    """Raise NotWritable if a shard that a task wrote is not there when seen from here."""
    if not store.exists(name + SUFFIX):
        raise NotWritable(
            f"{store.uri}/{name} was packed by another node and is not there when seen from this "
            "one: pack to a place that every node shares, such as s3://bucket/prefix"
        )


def gather(
    store: ObjectStore, identity: str, shards: Sequence[Shard], split: str, folder: Path
) -> tuple[Path, list[tuple[str, str]], Counter[str]]:
    """Make the index file of a split from its parts; return also what they left out and noted.

    Shards without samples get no number, because they are not in the manifest. The index is put
    together on disk: 300 million rows are 9.6 GB.
    """
    left_out: list[tuple[str, str]] = []
    notes = Counter[str]()
    total = sum(shard.samples for shard in shards)
    path = folder / f"rows-{split}"
    rows = np.memmap(path, dtype=INDEX_ROW, mode="w+", shape=total)
    start, number = 0, 0
    for part in _parts(store, identity, [shard.name for shard in shards]):
        left_out.extend(part.left_out)
        notes.update(dict(part.notes))
        if not len(part.rows):
            continue
        stop = start + len(part.rows)
        rows[start:stop] = part.rows
        rows["shard"][start:stop] = number
        start, number = stop, number + 1
    assert start == total, (start, total)
    index = save_index(folder, split, rows)
    path.unlink()
    return index, left_out, notes


def _parts(store: ObjectStore, identity: str, names: Sequence[str]) -> Iterator[Part]:
    """Read the parts in order, some of them ahead."""
    size = 4 * store.parallel_reads
    with ThreadPoolExecutor(store.parallel_reads) as pool:
        for first in range(0, len(names), size):
            some = names[first : first + size]
            found = pool.map(partial(read_part, store, identity), some)
            for name, part in zip(some, found, strict=True):
                if part is None:
                    raise NotWritable(
                        f"{store.uri}/{name}{SUFFIX} vanished or changed: does something else "
                        "pack there at the same time?"
                    )
                yield part
