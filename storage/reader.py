"""Read samples of a split by position: few ranged reads, every sample checked.

Positions are sorted by place, neighbours become one ranged read, and ranges of a remote store are
read in parallel. Each image is checked against its index row: the tar header in front of it must
have the indexed name and size, and the bytes the indexed crc32. A shard that changed is reported
and never decoded.
"""

import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from storage.errors import BadDataset, BadSample, ObjectChanged, ObjectNotFound, printable
from storage.index import SampleIndex, name_hash
from storage.store import RangeReader
from storage.tar_header import BLOCK as HEADER_BYTES
from storage.tar_header import member_name

# Gaps up to this size are read too instead of starting another request: a request to S3 costs the
# client a millisecond of CPU time, and a round trip in which a connection moves more than this.
_GAP_BYTES, _REMOTE_GAP_BYTES = 64 << 10, 1 << 20
_RANGE_BYTES = 16 << 20


@dataclass(frozen=True)
class Damaged:
    """A requested sample that cannot be used, and the reason."""

    request: int
    error: BadSample


@dataclass(frozen=True)
class RawSample:
    """The encoded image of one requested sample."""

    request: int
    """Index in the requested positions."""
    shard: str
    key: str
    data: bytes


def read_samples(
    store: RangeReader,
    index: SampleIndex,
    positions: np.ndarray,
    *,
    damaged: list[Damaged] | None = None,
) -> Iterator[RawSample]:
    """Yield every requested sample once, in storage order: positions int64 [n], repeats allowed.

    A sample whose bytes are not the indexed ones is added to `damaged`; if that is None, BadSample
    is raised. Raises BadDataset (shard missing or shorter), Unavailable.
    """
    rows = index.rows[positions]  # [n], a copy
    order = np.lexsort((rows["offset"], rows["shard"]))  # [n]
    gap = _REMOTE_GAP_BYTES if store.parallel_reads > 1 else _GAP_BYTES
    groups = list(ranges(rows, order, gap=gap))  # empty if only padding was requested
    if store.parallel_reads == 1 or len(groups) <= 1:
        for group in groups:
            yield from _cut(index, rows, group, _fetch(store, index, rows, group), damaged)
        return
    with ThreadPoolExecutor(min(store.parallel_reads, len(groups))) as pool:
        waiting: deque[tuple[np.ndarray, Future[bytes]]] = deque()
        for group in groups:
            waiting.append((group, pool.submit(_fetch, store, index, rows, group)))
            if len(waiting) > 2 * store.parallel_reads:  # limits the bytes in memory
                done, future = waiting.popleft()
                yield from _cut(index, rows, done, future.result(), damaged)
        for done, future in waiting:
            yield from _cut(index, rows, done, future.result(), damaged)


def ranges(
    rows: np.ndarray, order: np.ndarray, *, gap: int = _REMOTE_GAP_BYTES
) -> Iterator[np.ndarray]:
    """Cut `order` (int64 [n], of INDEX_ROW [n]) into ranges to read.

    A range ends if the next image is more than `gap` bytes away or in another shard, or if the
    range gets long.
    """
    if not len(order):
        return
    start = rows["offset"][order].astype(np.int64) - HEADER_BYTES  # [n]
    stop = start + HEADER_BYTES + rows["size"][order]
    shard = rows["shard"][order]
    first = 0
    for i in range(1, len(order)):
        far = start[i] - stop[i - 1] > gap or shard[i] != shard[i - 1]
        if far or stop[i] - start[first] > _RANGE_BYTES:
            yield order[first:i]
            first = i
    yield order[first:]


def _fetch(store: RangeReader, index: SampleIndex, rows: np.ndarray, group: np.ndarray) -> bytes:
    """Read the bytes from the first sample's header to the last sample's end."""
    name = index.shards[int(rows["shard"][group[0]])].name
    start = int(rows["offset"][group[0]]) - HEADER_BYTES
    stop = int((rows["offset"][group] + rows["size"][group]).max())
    try:
        return store.read_range(name, start, stop)
    except ObjectNotFound:
        raise BadDataset(f"shard {name} of {store.uri} is missing: pack it again") from None
    except ObjectChanged as error:
        raise BadDataset(f"{error}. The shard changed after packing: pack it again") from None


def _cut(
    index: SampleIndex,
    rows: np.ndarray,
    group: np.ndarray,
    data: bytes,
    damaged: list[Damaged] | None,
) -> Iterator[RawSample]:
    """Cut the samples out of one range and check each."""
    shard = index.shards[int(rows["shard"][group[0]])].name
    base = int(rows["offset"][group[0]]) - HEADER_BYTES
    for request in group.tolist():
        row = rows[request]
        start = int(row["offset"]) - base
        name = member_name(data[start - HEADER_BYTES : start])
        image = data[start : start + int(row["size"])]
        if name is None or name_hash(name) != int(row["name"]):
            reason = "another member is there"
        elif zlib.crc32(image) != int(row["crc"]):
            reason = "its bytes have another checksum"
        else:
            yield RawSample(request, shard, name.partition(".")[0], image)
            continue
        error = BadSample(shard, printable(name or "?"), f"{reason}: {_CHANGED}")
        if damaged is None:
            raise error
        damaged.append(Damaged(request, error))


_CHANGED = "the shard changed after packing, or was damaged. Pack it again"
