"""Tensors written in pieces by several writers at once, and read as a whole by any reader.

    <uri>/TOKEN-00001-of-00004.safetensors  the pieces of one writer, flat, by their tensors' names
          TOKEN-00001-of-00004.json         that file is complete: its size, checksum and places
          manifest.json                     written LAST, by one writer: the commit, names the files

A reader does not need to know the number of writers: a tensor, or a range of it, is assembled from
the pieces in the files of a commit, and only the files that contain it are read. TOKEN identifies
the group of writers, so that files of a dead group are never taken for those of the next one.
"""

import json
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from storage import commits
from storage.checksum import sha256_file
from storage.errors import BadInput, CorruptWeights, WeightsNotFound
from storage.json_values import BadValue, is_whole, parse_object
from storage.objects import open_store
from storage.store import ObjectStore
from storage.tensors import open_tensors, save_tensors, slice_of

Piece = tuple[str, Sequence[int], int, Tensor]
"""Name and shape of a whole tensor, index of the piece's first element in it, and values [n]."""


def write_part(uri: str, token: str, writer: int, writers: int, pieces: Iterable[Piece]) -> None:
    """Write one writer's pieces: float32, on the host, at most one piece per tensor.

    Raises BadInput, Unavailable.
    """
    tensors: dict[str, Tensor] = {}
    places: dict[str, list[int]] = {}
    for name, shape, start, values in pieces:
        assert values.dtype == torch.float32, f"{name} is {values.dtype}"
        assert name not in tensors, f"two pieces of {name}"
        tensors[name], places[name] = values, [start, len(values), *shape]
    store, part = open_store(uri), _part(token, writer, writers)
    with tempfile.TemporaryDirectory(prefix="vit-on-ray-") as folder:
        path = Path(folder) / f"{part}.safetensors"
        save_tensors(tensors, path)
        store.upload(path.name, path)
        done = {"bytes": path.stat().st_size, "sha256": sha256_file(path), "places": places}
    store.write(f"{part}.json", json.dumps(done).encode())


def commit_parts(uri: str, token: str, writers: int, manifest: Mapping[str, Any]) -> bool:
    """Commit what all writers of a group wrote; return False if some are not done yet.

    Raises WeightsExist if another group was first, BadInput, Unavailable.
    """
    store = open_store(uri)
    parts = [_part(token, writer, writers) for writer in range(writers)]
    if not {f"{part}.json" for part in parts} <= set(store.list(token)):
        return False
    files = {f"{part}.safetensors": _done(store, f"{part}.json") for part in parts}
    commits.publish(uri, manifest, files)
    return True


def _done(store: ObjectStore, key: str) -> dict[str, Any]:
    """Read a writer's description of its file. Raises CorruptWeights."""
    try:
        return parse_object(store.read(key))
    except BadValue as error:
        raise CorruptWeights(f"{store.uri}/{key} does not describe pieces ({error})") from None


@contextmanager
def open_pieces(uri: str, *, reader: int = 0, readers: int = 1) -> "Generator[Pieces]":
    """Open the tensors of a commit for the duration of the block.

    Each of the `readers` checks its share of the files first, so that together they check all.
    Other files are fetched and checked when they are needed.

    Raises WeightsNotFound, CorruptWeights (which names the file or the tensor), Unavailable.
    """
    manifest, store = commits.read_manifest(uri), open_store(uri)
    if manifest is None:
        raise WeightsNotFound(f"nothing is committed under {store.uri}")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vit-on-ray-"))
        pieces = Pieces(store, manifest, Path(folder), stack)
        for name in sorted(manifest["files"])[reader::readers]:
            pieces.fetch(name)
        yield pieces


class Pieces(Mapping[str, Tensor]):
    """Whole tensors by name, or parts of them, in float32. They are read on demand."""

    def __init__(
        self, store: ObjectStore, manifest: Mapping[str, Any], folder: Path, stack: ExitStack
    ) -> None:
        """Check that the files hold every element exactly once. Raises CorruptWeights, BadInput."""
        self.manifest = manifest
        self._store, self._folder, self._stack = store, folder, stack
        self._opened: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._found: dict[str, list[tuple[int, int, str]]] = {}  # start, end, file
        for file, entry in manifest["files"].items():
            for name, start, count, shape in _places(f"{store.uri}/{file}", entry):
                if self._shapes.setdefault(name, shape) != shape:
                    raise CorruptWeights(f"{store.uri}: the files give {name} two shapes")
                self._found.setdefault(name, []).append((start, start + count, file))
        for name, found in self._found.items():
            found.sort()
            edges = [0, *(end for _, end, _ in found)]
            if [start for start, _, _ in found] != edges[:-1] or edges[-1] != self._size(name):
                held = sum(end - start for start, end, _ in found)
                raise CorruptWeights(
                    f"{store.uri}: {name} has {held} of {self._size(name)} elements"
                )

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a whole tensor. Raises KeyError."""
        return self._shapes[name]

    def part(self, name: str, start: int, count: int) -> Tensor:
        """Read a range of the flattened tensor, [count]. Raises KeyError, CorruptWeights."""
        values = torch.empty(count)
        for first, last, file in self._found[name]:
            begin, end = max(first, start), min(last, start + count)
            if begin < end:
                where = f"{self._store.uri}/{file}"
                values[begin - start : end - start] = slice_of(
                    self.fetch(file), name, begin - first, end - first, where
                )
        return values

    def fetch(self, file: str) -> Any:
        """Open a file of the commit; the first time it is checked. Raises CorruptWeights."""
        if file not in self._opened:
            path = commits.fetch(self._store, file, self.manifest["files"][file], self._folder)
            opened = open_tensors(path, f"{self._store.uri}/{file}")
            self._opened[file] = self._stack.enter_context(opened)
        return self._opened[file]

    def _size(self, name: str) -> int:
        return prod(self._shapes[name])

    def __getitem__(self, name: str) -> Tensor:
        """Read a whole tensor. Raises KeyError, CorruptWeights."""
        return self.part(name, 0, self._size(name)).view(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _part(token: str, writer: int, writers: int) -> str:
    return f"{token}-{writer:05d}-of-{writers:05d}"


def _places(
    where: str, entry: Mapping[str, Any]
) -> Iterator[tuple[str, int, int, tuple[int, ...]]]:
    """Name, first element, number of elements and whole shape of each piece of a file.

    Raises BadInput if an older version wrote them, CorruptWeights.
    """
    if "places" not in entry:
        raise BadInput(
            f"{where} was written by an older vit-on-ray and cannot be read: finish the run with"
            " the older one, or start it again with --force"
        )
    places: object = entry["places"]
    if not isinstance(places, dict):
        raise CorruptWeights(f"{where}: its manifest has no places for its pieces")
    for name, place in cast("dict[str, object]", places).items():
        numbers = cast("list[object]", place) if isinstance(place, list) else []
        if len(numbers) < 2 or not all(map(is_whole, numbers)):
            raise CorruptWeights(f"{where}: its manifest has an invalid place {place!r} for {name}")
        start, count, *shape = cast("list[int]", numbers)
        if count * torch.float32.itemsize > entry["bytes"]:
            raise CorruptWeights(f"{where}: {name} cannot have {count} elements")
        yield name, start, count, tuple(shape)
