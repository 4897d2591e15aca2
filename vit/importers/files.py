"""Find the tensors of a checkpoint: one file, the shards of an index, or a folder of them.

Nothing is unpickled, and every error of another library's reader becomes a BadCheckpoint.
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
"""Suffixes of readable files, in lower case."""
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
FOLDER = ("model.safetensors", INDEXES[0], "pytorch_model.bin", INDEXES[1],
          "open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # fmt: skip
"""Names of the weights in a folder of timm, Hugging Face or open_clip; the first there is read."""
_DEEPSPEED = "mp_rank_00_model_states.pt"


def is_checkpoint_file(name: str) -> bool:
    """Whether the name of a path or URI is that of a readable checkpoint."""
    return name.lower().endswith((*SUFFIXES, *INDEXES))


def find_weights(path: Path) -> tuple[Path, list[str]]:
    """The file that holds the weights (or their index), and a note if it was searched for.

    Raises BadCheckpoint for a folder without weights or with several candidates, and
    FileNotFoundError if nothing is at `path`.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not path.is_dir():
        return path, []
    if found := [path / name for name in FOLDER if (path / name).exists()]:
        return found[0], []
    if deepspeed := _in_deepspeed_folder(path):
        return deepspeed, [f"read {deepspeed.relative_to(path)} in DeepSpeed's folder"]
    others = sorted(file for file in path.iterdir() if is_checkpoint_file(file.name))
    if len(others) == 1:
        return others[0], [f"read {others[0].name}, the only weights file in {path}"]
    if others:
        names = first_three([file.name for file in others])
        raise BadCheckpoint(f"{path} has several weights files ({names}) - give one of them")
    inside = sorted(sub for sub in path.iterdir() if sub.is_dir() and _has_weights(sub))
    hint = f" - give one of its folders: {first_three([s.name for s in inside])}" if inside else ""
    raise BadCheckpoint(f"{path} has none of {', '.join(FOLDER)}{hint}")


def read_tensors(path: Path) -> Any:
    """Content of a file: the tensors of a .npz, .safetensors or index, or what torch.save saved.

    Raises BadCheckpoint for a file of another kind, a damaged one, and one that needs unpickling.
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
    raise BadCheckpoint(f"{path}: wanted one of {' '.join(SUFFIXES)}, found {path.suffix!r}")


def as_float(tensors: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors in float32.

    Raises BadCheckpoint if there are none, if some are empty, and for values of another type.
    """
    if not tensors:
        raise BadCheckpoint(f"{path} holds no tensors")
    if strange := [str(name) for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise BadCheckpoint(f"{path}: {first_three(strange)} are no tensors")
    # DINOv3 without registers has a tensor of none.
    tensors = {n: t for n, t in tensors.items() if t.numel() or not n.endswith("register_tokens")}
    if empty := [name for name, tensor in tensors.items() if not tensor.numel()]:
        raise BadCheckpoint(
            f"{path}: {first_three(empty)} are empty, as in checkpoints of ZeRO 3, which has the"
            " weights in other files - merge them with DeepSpeed's zero_to_fp32.py"
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
    except Exception as error:  # numpy and zipfile raise many types for damaged files
        if "allow_pickle" in str(error) and is_zipfile(path):
            raise BadCheckpoint(
                f"{path} holds pickled objects (allow_pickle), which are not read - save only"
                " arrays of numbers"
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
            f"{path} names {len(shards)} shards, missing {first_three(missing)} - download them all"
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors.update(read_tensors(path.parent / shard))
    if lost := sorted(places.keys() - tensors.keys()):
        raise BadCheckpoint(f"{path}: its shards lack {first_three(lost)} - download them again")
    return tensors


def _from_numpy(array: np.ndarray) -> Tensor:
    """The array in float32. numpy has no bfloat16: JAX's arrives as a void type of two bytes."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        bits = array.view(np.uint16).astype(np.uint32) << 16
        array = bits.view(np.float32)
    return torch.from_numpy(np.array(array, dtype=np.float32))
