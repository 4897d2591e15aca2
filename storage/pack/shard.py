"""Make one shard: read its samples in storage order, write them in planned order, record it.

It runs on any node. Its bytes depend only on the source and the plan, so that a second attempt
writes the same ones.
"""

import zlib
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from webdataset.writer import TarWriter

from storage.checksum import sha256_file
from storage.dataset import Shard
from storage.errors import BadSource
from storage.index import INDEX_ROW, name_hash
from storage.objects import open_store
from storage.pack.parts import Part, write_part
from storage.pack.plan import Slice, order, tar_bytes
from storage.pack.source import LeftOut, Sample, Source, read_labelled
from storage.tar_header import BLOCK

_MAX_KEY = 90  # with its suffix it fits a USTAR name field


@dataclass(frozen=True, kw_only=True, eq=False)
class PackShard:
    """A task: called with a slice, it writes that shard, then its part, and returns the shard."""

    source: Source
    uri: str
    identity: str
    write: bool
    """Whether to write; if False, only return what would be written."""

    def __call__(self, one: Slice) -> Shard:
        """Make a shard. Raises BadSource if this node does not see the source, Unavailable."""
        self.source.require_here()
        store = open_store(self.uri)
        with TemporaryDirectory(prefix="vit-on-ray-pack-") as folder:
            path = Path(folder) / "shard.tar"
            part = build(self.source, one, path, identity=self.identity)
            if self.write and part.shard.samples:
                store.upload(one.name, path)
        if self.write:
            write_part(store, part)
        return part.shard


def build(source: Source, one: Slice, path: Path, *, identity: str) -> Part:
    """Write the tar of a slice to a local file. All its samples are in memory meanwhile."""
    positions = order(source, one)  # [n]
    samples: dict[int, Sample] = {}
    left_out: list[tuple[str, str]] = []
    notes = Counter[str]()
    for i in np.sort(positions).tolist():  # as they lie on disk
        try:
            samples[i] = read_labelled(source, one.split, i)
            notes.update(samples[i].notes)
        except LeftOut as error:
            left_out.append((error.what, error.reason))
    builder = _TarBuilder(path)
    try:
        for i in positions.tolist():
            if i in samples:
                builder.add(samples.pop(i))
    finally:
        builder.close()
    shard, rows = builder.result(one.name)
    return Part(
        identity=identity,
        shard=shard,
        rows=rows,
        left_out=tuple(left_out),
        notes=tuple(notes.items()),
    )


class _TarBuilder:
    """One tar in a local file, and the index rows of its samples."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open(path, "wb")  # noqa: SIM115  closed by close()
        self._tar = TarWriter(self._file, user="", group="", mode=0o444, mtime=0, encoder=False)
        self._rows: list[tuple[int, int, int, int, int, int]] = []
        self._keys: set[str] = set()

    def add(self, sample: Sample) -> None:
        # TarWriter writes members by sorted suffix: `cls` first, the image last
        assert sample.suffix > "cls", sample.suffix
        key = _fitting(sample.key)
        if key in self._keys:
            raise BadSource(f"two samples of one shard are called {key!r}: rename one of them")
        self._keys.add(key)
        self._tar.write(
            {"__key__": key, "cls": str(sample.label).encode(), sample.suffix: sample.data}
        )
        size = len(sample.data)
        offset = self._tar.tarstream.offset - (tar_bytes(size) - 3 * BLOCK)
        name = name_hash(f"{key}.{sample.suffix}")
        self._rows.append((offset, name, size, zlib.crc32(sample.data), 0, sample.label))

    def close(self) -> None:
        self._tar.close()
        self._file.close()

    def result(self, name: str) -> tuple[Shard, np.ndarray]:
        """The closed shard, and its rows: INDEX_ROW [samples]."""
        rows = np.array(self._rows, dtype=INDEX_ROW)
        if not len(rows):
            return Shard(name=name, bytes=0, samples=0, sha256=""), rows
        size = self._path.stat().st_size
        shard = Shard(name=name, bytes=size, samples=len(rows), sha256=sha256_file(self._path))
        return shard, rows


def _fitting(key: str) -> str:
    """A key for a plain tar header: short and ASCII, as Python's tarfile hides others in an
    extended header, where `reader.py` does not look."""
    if key.isascii() and len(key) <= _MAX_KEY:
        return key
    return blake2b(key.encode(), digest_size=16).hexdigest()
