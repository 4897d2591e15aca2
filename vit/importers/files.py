"""Find the tensors of a checkpoint: one file, the shards of an index, or a folder of them.

Nothing is unpickled, and whatever another library's reader raises becomes a BadCheckpoint.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vit.importers.damage import explain_damage
from vit.importers.errors import BadCheckpoint, first_three
from vit.importers.pickled import read_pickled

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".pt.tar")
SUFFIXES = (".npz", ".safetensors", *PICKLED)
"""Ends of the names of files that can be read, in lower case."""
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
FOLDER = ("model.safetensors", INDEXES[0], "pytorch_model.bin", INDEXES[1])
"""What the weights of a timm or Hugging Face folder are called, the first that is there counts."""
_DEEPSPEED = "mp_rank_00_model_states.pt"


def is_checkpoint_file(name: str) -> bool:
    """Whether a path or URI ends as the files do that can be read."""
    return name.lower().endswith((*SUFFIXES, *INDEXES))


def find_weights(path: Path) -> tuple[Path, list[str]]:
    """The file that holds the weights (or their index), and a line if it had to be looked for.

    Raises BadCheckpoint for a folder without weights, or with several that it could be, and
    FileNotFoundError for what is not there.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not path.is_dir():
        return path, []
    if found := [path / name for name in FOLDER if (path / name).exists()]:
        return found[0], []
    if deepspeed := _in_deepspeed_folder(path):
        return deepspeed, [f"read {deepspeed.relative_to(path)} of DeepSpeed's folder"]
    others = sorted(file for file in path.iterdir() if is_checkpoint_file(file.name))
    if len(others) == 1:
        return others[0], [f"read {others[0].name}, the only file of weights in {path}"]
    if others:
        names = first_three([file.name for file in others])
        raise BadCheckpoint(f"{path} has several files of weights ({names}) - name one of them")
    inside = sorted(sub for sub in path.iterdir() if sub.is_dir() and _has_weights(sub))
    hint = f" - take one of its folders: {first_three([s.name for s in inside])}" if inside else ""
    raise BadCheckpoint(f"{path} has none of {', '.join(FOLDER)}{hint}")


def read_tensors(path: Path) -> Any:
    """What the file holds: of a .npz, .safetensors or index the tensors, else the pickled content.

    Raises BadCheckpoint for another kind of file, a damaged one, and one that needs unpickling.
    """
    name = path.name.lower()
    if name.endswith(".npz"):
        return _read_npz(path)
    if name.endswith(".safetensors"):
        return _read_safetensors(path)
    if name.endswith(".index.json"):
        return _read_shards(path)
    if name.endswith(PICKLED):
        return read_pickled(path)
    raise BadCheckpoint(f"{path}: known are {' '.join(SUFFIXES)}, found {path.suffix!r}")


def as_float(tensors: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors in float32; raises BadCheckpoint for what is none, or holds other kinds."""
    if not tensors:
        raise BadCheckpoint(f"{path} holds no tensors")
    if strange := [str(name) for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise BadCheckpoint(f"{path}: {first_three(strange)} are no tensors")
    if empty := [name for name, tensor in tensors.items() if not tensor.numel()]:
        raise BadCheckpoint(
            f"{path}: {first_three(empty)} are empty: ZeRO 3 keeps its weights in other files -"
            " put them together by DeepSpeed's zero_to_fp32.py"
        )
    return {name: tensor.float() for name, tensor in tensors.items()}


def _in_deepspeed_folder(folder: Path) -> Path | None:
    latest = folder / "latest"
    inner = folder / latest.read_text().strip() if latest.is_file() else folder
    return inner / _DEEPSPEED if (inner / _DEEPSPEED).is_file() else None


def _has_weights(folder: Path) -> bool:
    return any((folder / name).exists() for name in (*FOLDER, _DEEPSPEED))


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _from_numpy(arrays[name]) for name in arrays.files}
    except MemoryError:
        raise
    except Exception as error:  # numpy and zipfile raise whatever a damaged file leads them to
        if "allow_pickle" in str(error) and is_zipfile(path):
            raise BadCheckpoint(
                f"{path} holds pickled objects (allow_pickle), which are not read - save arrays of"
                " numbers alone"
            ) from None
        raise BadCheckpoint(explain_damage(path, error)) from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except MemoryError:
        raise
    except Exception as error:  # SafetensorError is an Exception, and not the only one
        raise BadCheckpoint(explain_damage(path, error)) from None


def _read_shards(path: Path) -> dict[str, Tensor]:
    try:
        places: dict[str, str] = json.loads(path.read_text())["weight_map"]
        shards = sorted({Path(shard).name for shard in places.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(explain_damage(path, error)) from None
    if missing := [shard for shard in shards if not (path.parent / shard).exists()]:
        raise BadCheckpoint(
            f"{path} names {len(shards)} shards, {first_three(missing)} not there - download all"
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors.update(read_tensors(path.parent / shard))
    if lost := sorted(places.keys() - tensors.keys()):
        raise BadCheckpoint(f"{path}: its shards lack {first_three(lost)} - download them again")
    return tensors


def _from_numpy(array: np.ndarray) -> Tensor:
    """Float32; numpy has no bfloat16, so JAX's comes as two nameless bytes."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        bits = array.view(np.uint16).astype(np.uint32) << 16
        array = bits.view(np.float32)
    return torch.from_numpy(np.array(array, dtype=np.float32))
