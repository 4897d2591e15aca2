"""Write a source as tars: same input, same bytes, whenever and wherever it runs.

Three things are not obvious. Samples are written in a shuffled order (fixed by split and count), so
that a class-sorted folder does not become class-sorted shards, whose neighbours would share a
class. Tar headers carry no time, user or host. And `dataset.json` is written last: a dataset that a
killed packer left behind does not exist; packing over an identical one changes nothing.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
from webdataset.writer import TarWriter

from storage.dataset import Dataset, IndexFile, Shard
from storage.errors import BadSource
from storage.index import INDEX_ROW, name_hash, save_index, sha256_file
from storage.objects import ObjectStore, open_store
from storage.pack.publish import begin, finish, require_same
from storage.pack.source import LeftOut, Sample, Source
from storage.permutation import Permutation

SHARD_BYTES = 256 << 20
_BLOCK = 512
_SHUFFLED_AT_ONCE = 4096
_MAX_KEY = 90  # with its suffix it fits a USTAR name field
Progress = Callable[[str, int, int], None]


def pack(
    source: Source,
    uri: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    force: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Pack a source under a place and return the manifest; `progress(split, done, total)` is
    called.

    If the identical dataset is already there nothing is written. Raises DatasetExists if another
    one is (`force` replaces it), BadSource if nothing of a split could be packed, Unavailable.
    """
    store = open_store(uri)
    there = begin(store, force=force)
    work = _Packing(store=store, source=source, shard_bytes=shard_bytes, there=there)
    with TemporaryDirectory(prefix="vit-on-ray-pack-") as folder:
        splits = {split: work.pack_split(split, Path(folder), progress) for split in source.splits}
        dataset = Dataset(
            uri=store.uri,
            classes=source.classes,
            splits=MappingProxyType(splits),
            indexes=MappingProxyType(
                {split: IndexFile.of(path) for split, path in work.indexes.items()}
            ),
            left_out=tuple(work.left_out),
        )
        if there is not None:
            require_same(store, there, dataset.digest == there.digest)
            return there
        finish(store, dataset, work.indexes)
    _delete_stale(store, dataset)
    return dataset


@dataclass(kw_only=True)
class _Packing:
    store: ObjectStore
    source: Source
    shard_bytes: int
    there: Dataset | None
    """What is already there: then shards are compared with it instead of uploaded."""
    indexes: dict[str, Path] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def pack_split(self, split: str, folder: Path, progress: Progress | None) -> tuple[Shard, ...]:
        shards: list[Shard] = []
        rows: list[np.ndarray] = []
        for builder in self._filled(split, folder, progress):
            shard = builder.close(f"{split}-{len(shards):06d}.tar")
            self._deliver(shard, builder.path, split, len(shards))
            rows.append(builder.index(len(shards)))
            shards.append(shard)
        if not shards:
            raise BadSource(
                f"no sample of split {split!r} could be packed; the first was left out because: "
                f"{self.left_out[0] if self.left_out else 'the split is empty'}"
            )
        self.indexes[split] = save_index(folder, split, np.concatenate(rows))
        return tuple(shards)

    def _filled(
        self, split: str, folder: Path, progress: Progress | None
    ) -> Iterator["_TarBuilder"]:
        """Tars of up to `shard_bytes`, in a temporary file that the next one overwrites."""
        builder: _TarBuilder | None = None
        path = folder / "shard.tar"
        for sample in self._samples(split, progress):
            if builder is not None and builder.size_with(sample) > self.shard_bytes:
                yield builder
                builder = None
            builder = builder or _TarBuilder(path)
            builder.add(sample)
        if builder is not None:
            yield builder

    def _samples(self, split: str, progress: Progress | None) -> Iterator[Sample]:
        total = self.source.splits[split]
        seen: set[str] = set()
        for done, i in enumerate(_shuffled(split, total)):
            try:
                sample = self.source.read(split, i)
            except LeftOut as error:
                self.left_out.append((error.what, error.reason))
                continue
            if not 0 <= sample.label < len(self.source.classes):
                self.left_out.append(
                    (sample.key, f"label {sample.label} of {len(self.source.classes)} classes")
                )
                continue
            yield _with_key(sample, _unique(sample.key, seen))
            if progress is not None:
                progress(split, done + 1, total)

    def _deliver(self, shard: Shard, path: Path, split: str, number: int) -> None:
        if self.there is None:
            self.store.upload(shard.name, path)
            return
        shards = self.there.splits.get(split, ())
        require_same(self.store, self.there, number < len(shards) and shards[number] == shard)


def _shuffled(split: str, total: int) -> Iterator[int]:
    """Every number in [0, total) once, in an order that split and total fix."""
    for start in range(0, total, _SHUFFLED_AT_ONCE):
        places = np.arange(start, min(start + _SHUFFLED_AT_ONCE, total))
        yield from Permutation(total, f"pack/{split}/{total}").forward(places).tolist()


class _TarBuilder:
    """One tar in a local file, and the index rows of its samples."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "wb")  # noqa: SIM115  closed by close()
        self._tar = TarWriter(self._file, user="", group="", mode=0o444, mtime=0, encoder=False)
        self._rows: list[tuple[int, int, int, int, int, int]] = []

    def size_with(self, sample: Sample) -> int:
        """Bytes of the finished tar if this sample went in too."""
        return self._tar.tarstream.offset + 4 * _BLOCK + _padded(len(sample.data)) + 2 * _BLOCK

    def add(self, sample: Sample) -> None:
        # TarWriter writes members by sorted suffix: `cls` first, the image last
        assert sample.suffix > "cls", sample.suffix
        self._tar.write(
            {
                "__key__": sample.key,
                "cls": str(sample.label).encode(),
                sample.suffix: sample.data,
            }
        )
        offset = self._tar.tarstream.offset - _padded(len(sample.data))
        name = name_hash(f"{sample.key}.{sample.suffix}")
        self._rows.append(
            (offset, name, len(sample.data), zlib.crc32(sample.data), 0, sample.label)
        )

    def index(self, shard: int) -> np.ndarray:
        """INDEX_ROW [samples]."""
        rows = np.array(self._rows, dtype=INDEX_ROW)
        rows["shard"] = shard
        return rows

    def close(self, name: str) -> Shard:
        self._tar.close()
        self._file.close()
        return Shard(
            name=name,
            bytes=self.path.stat().st_size,
            samples=len(self._rows),
            sha256=sha256_file(self.path),
        )


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _unique(key: str, seen: set[str]) -> str:
    """A key that no sample before it had, short enough for a tar header."""
    if len(key.encode()) > _MAX_KEY:
        key = blake2b(key.encode(), digest_size=16).hexdigest()
    if key in seen:  # a.jpg beside a.png
        key = blake2b(f"{key}/{len(seen)}".encode(), digest_size=16).hexdigest()
    seen.add(key)
    return key


def _with_key(sample: Sample, key: str) -> Sample:
    return Sample(key=key, suffix=sample.suffix, data=sample.data, label=sample.label)


def _delete_stale(store: ObjectStore, dataset: Dataset) -> None:
    """Remove tars of the dataset that was replaced."""
    current = {shard.name for shards in dataset.splits.values() for shard in shards}
    for key in list(store.list()):
        split, _, rest = key.rpartition("-")
        number, _, suffix = rest.partition(".")
        ours = split in dataset.splits and suffix == "tar" and number.isdecimal()
        if ours and key not in current:
            store.delete(key)
