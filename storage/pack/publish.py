"""Publish a dataset completely or not at all, without overwriting other data.

    packing.json    written first: the plan; the tars beside it are an unfinished packer's
    *.tar.packing   the tar of that name is finished (`parts.py`)
    dataset.json    written last: all tars are finished

Tars without either file beside them are other data.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from storage.dataset import MANIFEST, Dataset, from_json, to_json
from storage.errors import BadDataset, DatasetExists, ObjectNotFound
from storage.pack.parts import SUFFIX
from storage.pack.plan import Plan
from storage.resized import Resized
from storage.store import ObjectStore

UNFINISHED = "packing.json"


def present(store: ObjectStore) -> Dataset | None:
    """The dataset that exists already. Raises DatasetExists if its manifest cannot be read."""
    try:
        return from_json(store.uri, store.read(MANIFEST))
    except ObjectNotFound:
        return None
    except BadDataset as error:
        raise DatasetExists(f"{error}, or replace it with --force") from None


def begin(store: ObjectStore, *, force: bool) -> Dataset | None:
    """Check that a URI may be packed to; return the dataset there, which is then only compared.

    With `force` a dataset that was packed there is ignored. Raises DatasetExists if there are tars
    that were not packed by this program, with or without `force`.
    """
    try:
        there = present(store)
    except DatasetExists:
        if not force:
            raise
        there = None
    if there is not None and there.in_place:
        raise DatasetExists(
            f"{store.uri} has tars that were only indexed, and packing there would overwrite "
            "them: pack to another place"
        )
    if there is not None and not force:
        return there
    if there is None and not store.exists(UNFINISHED) and not (force and store.exists(MANIFEST)):
        foreign = next((key for key in store.list() if key.endswith(".tar")), None)
        if foreign is not None:
            raise DatasetExists(
                f"{store.uri} holds tars that were not packed here, such as {foreign}: index them "
                "where they lie (pipelines/pack.py tar), or pack to another place"
            )
    return None


def claimed(store: ObjectStore) -> Plan | None:
    """The plan that a killed packer left."""
    try:
        return Plan.from_json(store.read(UNFINISHED))
    except ObjectNotFound:
        return None


def claim(store: ObjectStore, plan: Plan) -> None:
    """Write the plan, which marks what is here as an unfinished dataset."""
    store.write(UNFINISHED, plan.to_json())
    store.delete(MANIFEST)  # shards of two datasets must not look like one


def finish(store: ObjectStore, dataset: Dataset, indexes: Mapping[str, Path]) -> None:
    """Upload the indexes, then the manifest."""
    for path in indexes.values():
        store.upload(path.name, path)
    store.write(MANIFEST, to_json(dataset))


def tidy(store: ObjectStore, dataset: Dataset) -> None:
    """Remove files that only a packer needs, and tars of a dataset that was replaced.

    It runs after the manifest is written, and again in the next run if it was killed in between.
    """
    if not store.exists(UNFINISHED):
        return
    current = {shard.name for shards in dataset.splits.values() for shard in shards}
    stale: list[str] = []
    for key in store.list():
        tar = key.removesuffix(SUFFIX)
        split, _, rest = tar.rpartition("-")
        number, _, suffix = rest.partition(".")
        ours = split in dataset.splits and suffix == "tar" and number.isdecimal()
        if ours and (key != tar or tar not in current):
            stale.append(key)
    delete_all(store, stale)
    store.delete(UNFINISHED)


def delete_all(store: ObjectStore, keys: Sequence[str]) -> None:
    """Delete some objects in parallel."""
    with ThreadPoolExecutor(store.parallel_reads) as pool:
        list(pool.map(store.delete, keys))


def require_same(store: ObjectStore, there: Dataset, same: bool) -> None:
    """Raise DatasetExists unless the existing dataset is the `same` as would be written."""
    if same:
        return
    counts = ", ".join(f"{name} {there.samples(name)}" for name in there.splits)
    raise DatasetExists(
        f"{store.uri} already holds another dataset ({counts}; digest {there.digest[:12]}): pack "
        "to "
        "another place, or replace it with --force"
    )


def require_same_size(store: ObjectStore, there: Resized | None, wanted: Resized | None) -> None:
    """Raise DatasetExists if what was packed or begun there has images of another size."""
    if there == wanted:
        return
    raise DatasetExists(
        f"{store.uri} was packed or begun with {there or 'images as they are'}; now asked for: "
        f"{wanted or 'images as they are'}. Say the same --shorter-side and --quality, pack to "
        "another place, or replace it with --force"
    )
