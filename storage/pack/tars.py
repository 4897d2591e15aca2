"""Use existing WebDataset tars as they are: nothing is rewritten, an index is put beside them.

Every byte is read once, for the checksums that show a later reader that a shard has changed. The
tars may be in a folder or a bucket (`scan.py` reads one). An incomplete tar is an error, because
what it lost is unknown; the parts of the others are kept for the next attempt.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import NoReturn

import numpy as np

from storage.dataset import Dataset, IndexFile, Shard
from storage.decode import MAX_PIXELS
from storage.errors import BadSource
from storage.objects import open_store
from storage.pack.execute import Progress, Run, Tally, in_threads, silent
from storage.pack.labels import Labels
from storage.pack.parts import SUFFIX, finished, gather, read_part, require_visible
from storage.pack.publish import delete_all, finish, present, require_same
from storage.pack.scan import ScanTar
from storage.pack.tar_names import matching
from storage.store import ObjectStore

_MIB = 1 << 20


def index_tars(
    uri: str,
    splits: Mapping[str, Sequence[str]],
    *,
    index: str | None = None,
    classes: Sequence[str] | None = None,
    label_key: str | None = None,
    image_key: str | None = None,
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
    run: Run = in_threads,
    progress: Progress = silent,
) -> Dataset:
    """Index the tars under a URI: split -> patterns of their names (`tar_names.py`).

    `index` is the URI of manifest and index, by default that of the tars. `classes` names the
    labels 0, 1, ...; by default the names are the numbers. Results of a killed run are reused.
    Raises BadSource with every incomplete or unmatched tar, DatasetExists, Unavailable.
    """
    tars, store = open_store(uri), open_store(index or uri)
    keys = list(tars.list())
    chosen = {split: matching(tars.uri, keys, patterns) for split, patterns in splits.items()}
    task = ScanTar(
        uri=tars.uri,
        parts=store.uri,
        labels=Labels(key=label_key, classes=tuple(classes) if classes is not None else None),
        image_key=image_key,
        max_pixels=max_pixels,
    )
    names = sorted({name for some in chosen.values() for name in some})
    shards = _scan_all(tars, store, task, names, run, progress)
    with TemporaryDirectory(prefix="vit-on-ray-pack-") as folder:
        dataset, indexes = _describe(store, task, chosen, shards, classes, Path(folder))
        there = None if force else present(store)
        if there is None:
            finish(store, dataset, indexes)
        else:
            require_same(store, there, dataset.digest == there.digest)
    delete_all(store, [name + SUFFIX for name in shards])
    return dataset if there is None else there


def _scan_all(
    tars: ObjectStore,
    store: ObjectStore,
    task: ScanTar,
    names: list[str],
    run: Run,
    progress: Progress,
) -> dict[str, Shard]:
    """Scan the tars that an earlier run did not scan; return all shards by name.

    Raises BadSource with every incomplete tar.
    """
    with ThreadPoolExecutor(tars.parallel_reads) as pool:
        sizes = dict(zip(names, pool.map(tars.size, names), strict=True))
    done = finished(store, task.identity, names, tars=tars)
    missing = [name for name in names if name not in done]
    found = {name: sizes[name] for name in done}

    def tell() -> None:
        progress(
            Tally(
                unit="MiB",
                done=sum(sizes[name] for name in done) / _MIB,
                total=sum(sizes.values()) / _MIB,
                found=sum(found.values()) / _MIB,
                shards=len(done),
                total_shards=len(names),
                found_shards=len(found),
            )
        )

    tell()
    torn: dict[str, str] = {}
    work_bytes = sum(sizes[name] for name in missing)
    for shard, why in run(task, missing, work_bytes=work_bytes):
        done[shard.name] = shard
        if why is None:
            require_visible(store, shard.name)
        else:
            torn[shard.name] = why
        tell()
    if torn:
        some = "; ".join(f"{name}: {torn[name]}" for name in sorted(torn)[:20])
        raise BadSource(f"{len(torn)} of {len(names)} tars under {tars.uri} cannot be used. {some}")
    return done


def _describe(
    store: ObjectStore,
    task: ScanTar,
    chosen: Mapping[str, list[str]],
    shards: Mapping[str, Shard],
    classes: Sequence[str] | None,
    folder: Path,
) -> tuple[Dataset, Mapping[str, Path]]:
    """The manifest, and the index file of each split, which lies in a local folder."""
    indexes: dict[str, Path] = {}
    left_out: list[tuple[str, str]] = []
    notes = Counter[str]()
    labels = 0
    for split, names in chosen.items():
        several = [shards[name] for name in names]
        if not any(shard.samples for shard in several):
            _raise_empty(store, task.identity, split, names)
        indexes[split], missing, more = gather(store, task.identity, several, split, folder)
        left_out.extend(missing)
        notes.update(more)
        rows = np.load(indexes[split], mmap_mode="r", allow_pickle=False)
        labels = max(labels, 1 + int(rows["label"].max()))
    if classes is not None and len(classes) < labels:
        raise BadSource(
            f"{task.uri} has labels up to {labels - 1}, but only {len(classes)} class names given"
        )
    dataset = Dataset(
        uri=store.uri,
        classes=tuple(classes) if classes is not None else tuple(str(i) for i in range(labels)),
        splits=MappingProxyType(
            {
                split: tuple(shards[name] for name in names if shards[name].samples)
                for split, names in chosen.items()
            }
        ),
        indexes=MappingProxyType({split: IndexFile.of(path) for split, path in indexes.items()}),
        left_out=tuple(left_out),
        notes=tuple(notes.most_common()),
        in_place=True,
        shards_at=None if task.uri == store.uri else task.uri,
    )
    return dataset, indexes


def _raise_empty(store: ObjectStore, identity: str, split: str, names: list[str]) -> NoReturn:
    parts = (read_part(store, identity, name) for name in names)
    first = next((part.left_out[0] for part in parts if part and part.left_out), None)
    why = f"{first[0]}: {first[1]}" if first else "they are empty"
    raise BadSource(f"the tars of split {split!r} hold no usable sample: {why}")
