"""Find the images of what a command line names: files, folders, tars, S3 prefixes, datasets.

Images below a folder or prefix are those that `pack.py folder` would take, in the order of their
names, and tars among them are opened. A file that is named itself is an image, whatever its suffix.
"""

import io
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.prediction.pieces import FileRef, Files, Piece, samples_of
from pipelines.recipes.errors import Mistake
from storage.dataset import MANIFEST, Shard, load_dataset
from storage.errors import BadSource
from storage.index import INDEX_ROW, SampleIndex, load_index, name_hash
from storage.objects import open_store
from storage.pack.object_stream import CHUNK_BYTES, ObjectStream
from storage.pack.tree import IMAGE_SUFFIXES, is_system
from storage.tar import members
from storage.uri import parse

TAR = ".tar"


@dataclass(frozen=True)
class Tar:
    """A tar that was found, not read yet."""

    folder: str
    key: str
    file: str
    """Name for people."""


@dataclass(frozen=True)
class DatasetSplit:
    """A split of a packed dataset."""

    uri: str
    split: str


Found = FileRef | Tar | DatasetSplit


def find(sources: Sequence[str], *, split: str) -> list[Found]:
    """List what the sources name, in their order; tars are not opened yet.

    Raises:
        Mistake: no source was given, or one of them names nothing.
        storage.errors.StorageError: the storage refuses or does not answer.
    """
    if not sources:
        raise Mistake("no images given: name files, folders, tars, s3:// prefixes or a dataset")
    found: list[Found] = []
    for source in sources:
        some = list(_find(source, split))
        if not some:
            raise Mistake(
                f"{source}: no image and no tar in it - wanted files such as .jpg, .png, .webp"
            )
        found += some
    return found


def _find(source: str, split: str) -> Iterator[Found]:
    location = parse(source)
    path = Path(location.path)
    if location.bucket is None and not path.exists():
        raise Mistake(f"{source}: no such file or folder")
    if location.bucket is None and not path.is_dir():
        yield _one(str(path.parent), path.name, source)
        return
    store = open_store(source)
    if store.exists(MANIFEST):
        yield DatasetSplit(store.uri, split)
        return
    keys = sorted(store.list(), key=os.fsencode)
    if not keys and location.bucket is not None and location.path:  # one object, or nothing
        folder, _, key = str(location).rpartition("/")
        if not open_store(folder).exists(key):
            raise Mistake(f"{source}: nothing lies there")
        yield _one(folder, key, source)
        return
    for key in keys:
        if _is_image(key) or key.lower().endswith(TAR):
            yield _one(store.uri, key, f"{source.rstrip('/')}/{key}")


def _one(folder: str, key: str, file: str) -> Found:
    shown = os.fsencode(file).decode(errors="backslashreplace")  # a name may be no UTF-8
    if key.lower().endswith(TAR):
        return Tar(folder, key, shown)
    version = ""
    if "://" not in folder:
        status = Path(folder, key).stat()
        version = f"{status.st_size} {status.st_mtime_ns}"
    return FileRef(folder, key, shown, version)


def _is_image(key: str) -> bool:
    parts = [part for part in key.split("/") if part != "."]  # `tar -c .` writes ./1.jpg
    usual = not any(is_system(part) for part in parts)
    return usual and Path(key).suffix.lower() in IMAGE_SUFFIXES


def pieces_of(found: Sequence[Found], *, rows: int) -> list[Piece]:
    """Cut what was found into pieces of `rows` images; tars are read once, by Ray tasks.

    Raises:
        BadSource: a tar is incomplete or holds no image.
        BadDataset: a dataset has no such split.
    """
    tars = iter(_scan_all([one for one in found if isinstance(one, Tar)]))
    pieces: list[Piece] = []
    files: list[FileRef] = []
    for one in (*found, None):
        if isinstance(one, FileRef):
            files.append(one)
            continue
        pieces += [Files(tuple(files[i : i + rows])) for i in range(0, len(files), rows)]
        files = []
        if isinstance(one, Tar):
            index, names = next(tars)
            pieces += [
                samples_of(one.folder, index, i, min(i + rows, len(index)), names)
                for i in range(0, len(index), rows)
            ]
        elif isinstance(one, DatasetSplit):
            dataset = load_dataset(one.uri)
            index, store = load_index(dataset, one.split), dataset.shard_store().uri
            pieces += [
                samples_of(store, index, i, min(i + rows, len(index)))
                for i in range(0, len(index), rows)
            ]
    return pieces


def _scan_all(tars: Sequence[Tar]) -> list[tuple[SampleIndex, tuple[str, ...]]]:
    if not tars:
        return []
    import ray  # a few images do not wait for it

    task: Any = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(scan_tar)
    return ray.get([task.remote(tar) for tar in tars])


def scan_tar(tar: Tar) -> tuple[SampleIndex, tuple[str, ...]]:
    """Read a tar from front to back: the place of each image in it, and their names.

    Raises BadSource, which names the tar.
    """
    stream = ObjectStream(open_store(tar.folder), tar.key)
    rows: list[tuple[int, int, int, int, int, int]] = []
    names: list[str] = []
    try:
        for member in members(io.BufferedReader(stream, CHUNK_BYTES).read):
            if member.refused is None and _is_image(member.name):
                name, crc = name_hash(member.header_name), zlib.crc32(member.data)
                rows.append((member.offset, name, len(member.data), crc, 0, 0))
                names.append(f"{tar.file}/{member.name}")
    except BadSource as error:
        raise BadSource(f"{tar.file}: {error}") from None
    if not rows:
        raise BadSource(f"{tar.file}: no image in this tar - wanted files such as .jpg, .png")
    shard = Shard(name=tar.key, bytes=stream.size, samples=len(rows), sha256=stream.sha256())
    table = np.array(rows, dtype=INDEX_ROW)
    return SampleIndex(split="", rows=table, shards=(shard,), num_classes=1), tuple(names)


def where(found: Sequence[Found]) -> str:
    """Say for people how much was found."""
    kinds = {"files": FileRef, "tars": Tar, "datasets": DatasetSplit}
    counts = {name: sum(isinstance(one, kind) for one in found) for name, kind in kinds.items()}
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
