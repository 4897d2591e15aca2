"""Tensors written in pieces by several writers at once, and read whole by anybody.

    <uri>/TOKEN-00001-of-00004.safetensors  the pieces of one writer, flat, by their tensors' names
          TOKEN-00001-of-00004.json         its size and checksum: this writer is done
          manifest.json                     written LAST, by one: names the files, is the commit

Who wrote and how many they were matters to no reader: a tensor is put together from whatever pieces
the files of a commit hold. TOKEN is the group of writers', so that what a dead group left behind is
never taken for a part of the next one's.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from storage import weights
from storage.errors import CorruptWeights, WeightsNotFound
from storage.index import sha256_file
from storage.objects import open_store

Piece = tuple[str, Sequence[int], int, Tensor]
"""Name and shape of a whole tensor, the first element of the piece in it, its values [n]."""


def write_part(uri: str, token: str, writer: int, writers: int, pieces: Iterable[Piece]) -> None:
    """Write the pieces of one of the `writers`: float32, on the host, one of a tensor at most.

    Raises BadInput, Unavailable.
    """
    tensors: dict[str, Tensor] = {}
    places: dict[str, list[int]] = {}
    for name, shape, start, values in pieces:
        assert values.dtype == torch.float32, f"{name} is {values.dtype}"
        assert name not in tensors, f"two pieces of {name}"
        tensors[name], places[name] = values, [start, *shape]
    store, part = open_store(uri), _part(token, writer, writers)
    with tempfile.TemporaryDirectory(prefix="vit-on-ray-") as folder:
        path = Path(folder) / f"{part}.safetensors"
        save_file(tensors, path, metadata={"places": json.dumps(places)})
        store.upload(path.name, path)
        done = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    store.write(f"{part}.json", json.dumps(done).encode())


def commit_parts(uri: str, token: str, writers: int, manifest: Mapping[str, Any]) -> bool:
    """Commit what all writers of a group wrote; False where some are not done yet.

    Raises WeightsExist where another group was first, BadInput, Unavailable.
    """
    store = open_store(uri)
    parts = [_part(token, writer, writers) for writer in range(writers)]
    if not {f"{part}.json" for part in parts} <= set(store.list(token)):
        return False
    files = {f"{part}.safetensors": json.loads(store.read(f"{part}.json")) for part in parts}
    weights.publish(uri, manifest, files)
    return True


@contextmanager
def open_pieces(uri: str) -> "Iterator[Pieces]":
    """The tensors of a commit while the block runs; every file is checked first.

    Raises WeightsNotFound, CorruptWeights (which names the file), Unavailable.
    """
    manifest, store = weights.read_manifest(uri), open_store(uri)
    if manifest is None:
        raise WeightsNotFound(f"nothing is committed under {store.uri}")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vit-on-ray-"))
        files = []
        for name, promised in manifest["files"].items():
            path = weights.fetch(store, name, promised, Path(folder))
            try:
                files.append(stack.enter_context(safe_open(path, framework="pt")))
            except SafetensorError as error:
                raise CorruptWeights(f"{store.uri}/{name} is not safetensors: {error}") from None
        yield Pieces(store.uri, files)


class Pieces(Mapping[str, Tensor]):
    """Whole tensors by name, float32; put together when they are asked for."""

    def __init__(self, uri: str, files: Sequence[Any]) -> None:
        self.uri = uri
        self._shapes: dict[str, list[int]] = {}
        self._found: dict[str, list[tuple[int, Any]]] = {}  # start, file
        for file in files:
            for name, (start, *shape) in json.loads(file.metadata()["places"]).items():
                self._shapes[name] = shape
                self._found.setdefault(name, []).append((start, file))

    def __getitem__(self, name: str) -> Tensor:
        """Raises KeyError, CorruptWeights where pieces are missing."""
        whole, end = torch.empty(prod(self._shapes[name])), 0
        for start, file in sorted(self._found[name], key=lambda piece: piece[0]):
            values = file.get_tensor(name)
            if start != end:
                break
            whole[start : start + len(values)] = values
            end += len(values)
        if end != len(whole):
            raise CorruptWeights(f"{self.uri}: {name} has {end} of {len(whole)} elements")
        return whole.view(self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _part(token: str, writer: int, writers: int) -> str:
    return f"{token}-{writer:05d}-of-{writers:05d}"
