"""Pack a source: the same input gives the same bytes, at any time and with any number of tasks.

Shards are independent tasks (`plan.py`, `shard.py`) that `run` executes (`execute.py`).
`dataset.json` is written last: what a killed packer left does not count as a dataset, and packing
again makes only the missing shards. Packing over an identical dataset changes nothing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from storage.dataset import Dataset, IndexFile, Shard
from storage.errors import BadSource
from storage.objects import open_store
from storage.pack.execute import Progress, Run, Tally, in_turn, silent
from storage.pack.parts import finished, gather, require_visible
from storage.pack.plan import Plan, Slice, identity_of, make_plan
from storage.pack.publish import (
    begin,
    claim,
    claimed,
    finish,
    require_same,
    require_same_size,
    tidy,
)
from storage.pack.shard import PackShard
from storage.pack.source import Source
from storage.store import ObjectStore

SHARD_BYTES = 256 << 20


def pack(
    source: Source,
    uri: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    force: bool = False,
    run: Run = in_turn,
    progress: Progress = silent,
) -> Dataset:
    """Pack a source under a URI and return the manifest. Shards become about `shard_bytes` large.

    Shards of a killed run of the same input are reused; if the identical dataset exists already,
    nothing is written. Raises DatasetExists if there is another one (`force` replaces it),
    BadSource if nothing of a split could be packed, Unavailable.
    """
    store = open_store(uri)
    there = begin(store, force=force)
    if there is not None:
        _compare(store, there, source, make_plan(source, shard_bytes), run, progress)
        tidy(store, there)
        return there
    plan = _resume(store, source, shard_bytes, force=force) or make_plan(source, shard_bytes)
    claim(store, plan)
    shards = _write(store, source, plan, run, progress)
    with TemporaryDirectory(prefix="vit-on-ray-pack-") as folder:
        dataset, indexes = _describe(store, source, plan, shards, Path(folder))
        finish(store, dataset, indexes)
    tidy(store, dataset)
    return dataset


def _resume(store: ObjectStore, source: Source, shard_bytes: int, *, force: bool) -> Plan | None:
    """The plan of a killed run of the same input, or None.

    Raises DatasetExists if it resized images in another way, unless `force`.
    """
    plan = claimed(store)
    if plan and not force:
        require_same_size(store, plan.resized, source.resized)
    return plan if plan and plan.identity == identity_of(source, shard_bytes) else None


def _write(
    store: ObjectStore, source: Source, plan: Plan, run: Run, progress: Progress
) -> dict[str, Shard]:
    """Make the missing shards; return all shards by name."""
    slices = plan.slices
    done = finished(store, plan.identity, [one.name for one in slices])
    missing = [one for one in slices if one.name not in done]
    task = PackShard(source=source, uri=store.uri, identity=plan.identity, write=True)
    for shard in _told(plan, missing, run, task, progress):
        require_visible(store, shard.name)
        done[shard.name] = shard
    return done


def _told(
    plan: Plan, missing: list[Slice], run: Run, task: PackShard, progress: Progress
) -> Iterator[Shard]:
    """Run a task for every missing shard and report progress."""
    sizes = {one.name: len(one) for one in plan.slices}
    done = found = sum(sizes.values()) - sum(len(one) for one in missing)
    shards = found_shards = len(sizes) - len(missing)

    def tell() -> None:
        progress(
            Tally(
                unit="images",
                done=done,
                total=sum(sizes.values()),
                found=found,
                shards=shards,
                total_shards=len(sizes),
                found_shards=found_shards,
            )
        )

    tell()
    for shard in run(task, missing, work_bytes=plan.work_bytes(missing)):
        yield shard
        done, shards = done + sizes[shard.name], shards + 1
        tell()


def _compare(
    store: ObjectStore, there: Dataset, source: Source, plan: Plan, run: Run, progress: Progress
) -> None:
    """Make every shard again and raise DatasetExists at the first one that differs."""
    require_same_size(store, there.resized, source.resized)
    known = {shard.name: shard for shards in there.splits.values() for shard in shards}
    slices = plan.slices
    planned = {one.name for one in slices}
    same_classes = source.classes == there.classes
    require_same(store, there, same_classes and known.keys() <= planned)
    task = PackShard(source=source, uri=store.uri, identity=plan.identity, write=False)
    for shard in _told(plan, slices, run, task, progress):
        same = known.get(shard.name) == (shard if shard.samples else None)
        require_same(store, there, same)


def _describe(
    store: ObjectStore, source: Source, plan: Plan, shards: Mapping[str, Shard], folder: Path
) -> tuple[Dataset, Mapping[str, Path]]:
    """The manifest, and the index file of each split, which lies in a local folder."""
    splits: dict[str, tuple[Shard, ...]] = {}
    indexes: dict[str, Path] = {}
    left_out: list[tuple[str, str]] = []
    notes = Counter(dict(source.notes))
    for split in source.splits:
        all_of_it = [shards[one.name] for one in plan.slices if one.split == split]
        if not any(shard.samples for shard in all_of_it):
            raise BadSource(f"no sample of split {split!r} could be packed")
        indexes[split], missing, more = gather(store, plan.identity, all_of_it, split, folder)
        left_out.extend(missing)
        notes.update(more)
        splits[split] = tuple(shard for shard in all_of_it if shard.samples)
    dataset = Dataset(
        uri=store.uri,
        classes=source.classes,
        splits=MappingProxyType(splits),
        indexes=MappingProxyType({split: IndexFile.of(path) for split, path in indexes.items()}),
        left_out=tuple(left_out),
        notes=tuple(notes.items()),
        resized=source.resized,
    )
    return dataset, indexes
