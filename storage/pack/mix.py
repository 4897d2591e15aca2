"""Mix packed datasets: one manifest and index over the shards of several, which do not move.

Classes of the same name are one class. The order, the reads and the checks are those of any other
dataset; how often each member is drawn is `data.shares` of a stage.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np

from storage.dataset import Dataset, IndexFile, Shard, load_dataset
from storage.errors import BadSource, DatasetExists
from storage.index import INDEX_ROW, load_index
from storage.mixture import Member
from storage.objects import open_store
from storage.pack.publish import finish, present, require_same
from storage.uri import parse

_ROWS_AT_ONCE = 1 << 20


def mix_datasets(uris: Sequence[str], out: str, *, force: bool = False) -> Dataset:
    """Write manifest and index of a mixture.

    Args:
        uris: the packed datasets, at least two.
        out: where manifest and index go.
        force: replace another mixture there.

    Raises:
        BadSource: they cannot be mixed.
        DatasetExists: something else is there.
        BadDataset, Unavailable: a dataset cannot be read.
    """
    datasets = [load_dataset(uri) for uri in uris]
    store = open_store(out)
    _check(datasets, store.uri)
    root = _root([dataset.shard_store().uri for dataset in datasets])
    classes = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.classes))
    splits = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.splits))
    there = present(store)
    if there is not None and not there.mixed_from:
        raise DatasetExists(f"{store.uri} holds a dataset that is no mixture: mix to another place")
    with TemporaryDirectory(prefix="vit-on-ray-mix-") as folder:
        indexes = {
            split: _index(datasets, split, classes, Path(folder, f"index-{split}.npy"))
            for split in splits
        }
        dataset = Dataset(
            uri=store.uri,
            classes=classes,
            splits=MappingProxyType(
                {split: tuple(_shards(datasets, split, root)) for split in splits}
            ),
            indexes=MappingProxyType({name: IndexFile.of(path) for name, path in indexes.items()}),
            in_place=True,
            shards_at=root,
            mixed_from=tuple(_members(datasets)),
        )
        if there is None or force:
            finish(store, dataset, indexes)
        else:
            require_same(store, there, there.digest == dataset.digest)
            return there
    return dataset


def _check(datasets: Sequence[Dataset], out: str) -> None:
    if len(datasets) < 2:
        raise BadSource(f"--of: wanted at least two datasets to mix, found {len(datasets)}")
    seen: dict[str, str] = {}
    for dataset in datasets:
        if dataset.digest in seen:
            raise BadSource(
                f"--of: {seen[dataset.digest]} and {dataset.uri} have the same content - give it"
                " once, and draw it more often by --stage.data.shares"
            )
        if dataset.uri == out:
            raise BadSource(f"--out {out} is one of the datasets to mix: mix to another place")
        seen[dataset.digest] = dataset.uri


def _root(uris: Sequence[str]) -> str:
    """The folder or bucket above all shards, because shards of a dataset are named below one."""
    places = [parse(uri) for uri in uris]
    if len({place.bucket for place in places}) > 1:
        raise BadSource(
            f"--of: shards lie in {', '.join(uris)} - wanted all in one bucket, or all in folders"
        )
    parts = [Path(place.path).parts for place in places]
    same = 0
    while all(len(each) > same and each[same] == parts[0][same] for each in parts):
        same += 1
    return str(replace(places[0], path=str(Path(*parts[0][:same])) if same else ""))


def _below(root: str, uri: str) -> str:
    above, whole = Path(parse(root).path), Path(parse(uri).path)
    below = str(whole.relative_to(above))
    return "" if below == "." else f"{below}/"


def _shards(datasets: Sequence[Dataset], split: str, root: str) -> Iterator[Shard]:
    for dataset in datasets:
        prefix = _below(root, dataset.shard_store().uri)
        for shard in dataset.splits.get(split, ()):
            yield replace(shard, name=f"{prefix}{shard.name}")


def _members(datasets: Sequence[Dataset]) -> Iterator[Member]:
    for dataset in datasets:
        counts = {split: len(shards) for split, shards in dataset.splits.items()}
        name = dataset.uri.rstrip("/").rpartition("/")[2]
        yield Member(name=name, digest=dataset.digest, shards=MappingProxyType(counts))


def _index(datasets: Sequence[Dataset], split: str, classes: Sequence[str], path: Path) -> Path:
    """Write the index rows of all members on disk: 300 million are 9.6 GB."""
    having = [dataset for dataset in datasets if split in dataset.splits]
    total = sum(dataset.samples(split) for dataset in having)
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=INDEX_ROW, shape=(total,))
    number: Mapping[str, int] = {name: label for label, name in enumerate(classes)}
    start = first_shard = 0
    for dataset in having:
        labels = np.array([number[name] for name in dataset.classes], dtype=np.int32)  # [C]
        found = load_index(dataset, split).rows
        for begin in range(0, len(found), _ROWS_AT_ONCE):
            part = np.array(found[begin : begin + _ROWS_AT_ONCE])  # [n]
            part["label"] = labels[part["label"]]
            part["shard"] += first_shard
            rows[start : start + len(part)] = part
            start += len(part)
        first_shard += len(dataset.shards(split))
    rows.flush()
    return path
