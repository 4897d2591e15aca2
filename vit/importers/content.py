"""Name a checkpoint by its content: the same wherever its files lie, another once they change."""

import hashlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from torch import Tensor

from vit.importers.files import as_float, find_weights, read_tensors
from vit.importers.settings import FILES, read_settings
from vit.importers.wrappings import unnest


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values: the same in whatever layout of file they came."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def checkpoint_digest(path: str | PathLike[str]) -> str:
    """SHA-256 of what `import_checkpoint` reads at `path`: tensors, and config.json beside them.

    Of the tensors as they are stored, in float32: what the import makes of them (other pixels,
    another resolution) is rounded by each kind of machine in its own way.

    Raises BadCheckpoint and FileNotFoundError.
    """
    file, _ = find_weights(Path(path))
    state, _ = unnest(read_tensors(file), file)
    digest = hashlib.sha256(tensor_digest(as_float(state, file)).encode())
    described = read_settings(file.parent) is not None
    for name in FILES:
        beside = file.parent / name
        if described and beside.is_file():
            digest.update(f"\n{name}\n".encode() + beside.read_bytes())
    return digest.hexdigest()
