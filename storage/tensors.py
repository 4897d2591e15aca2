"""Read and write safetensors files with this package's errors. Nothing is unpickled."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from storage.errors import CorruptWeights, Unavailable

_FILES: Any = safetensors.torch  # its types name a path of unknown content


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a file on this machine's disk. Raises Unavailable if the disk is full."""
    try:
        _FILES.save_file(dict(tensors), path)
    except (SafetensorError, OSError) as error:  # SafetensorError: how it says ENOSPC
        raise Unavailable(
            f"{path}: cannot be written on this machine's disk: {error}. Free some space there, or"
            " set TMPDIR to another disk"
        ) from error


def load_tensors(path: Path, where: str) -> dict[str, Tensor]:
    """Read all tensors of a file, float32. Raises CorruptWeights, which says `where` it is from."""
    try:
        found: dict[str, Tensor] = _FILES.load_file(path)
    except Exception as error:
        _refuse(where, error)
    for name, tensor in found.items():
        if tensor.dtype != torch.float32:
            raise CorruptWeights(f"{where}: tensor {name!r} is {tensor.dtype}, wanted float32")
    return found


def open_tensors(path: Path, where: str) -> AbstractContextManager[Any]:
    """Open a file to read its tensors one by one. Raises CorruptWeights."""
    try:
        return safe_open(path, framework="pt")
    except Exception as error:
        _refuse(where, error)


def slice_of(opened: Any, name: str, start: int, stop: int, where: str) -> Tensor:
    """Read elements [start, stop) of a flat tensor, float32. Raises CorruptWeights."""
    try:
        values = opened.get_slice(name)[start:stop]
    except Exception as error:
        _refuse(where, error)
    if values.dtype != torch.float32 or values.shape != (stop - start,):
        raise CorruptWeights(
            f"{where}: {name!r} is {values.dtype} {list(values.shape)}, wanted float32"
            f" [{stop - start}]"
        )
    return values


def _refuse(where: str, error: Exception) -> NoReturn:
    """Raise CorruptWeights for any error of the decoder, because the bytes come from outside."""
    if isinstance(error, MemoryError):
        raise error
    raise CorruptWeights(f"{where} is not safetensors: {error}") from None
