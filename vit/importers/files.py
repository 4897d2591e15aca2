"""Read the tensors of a checkpoint, and the settings lying beside them. Nothing is unpickled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vit.errors import BadModel

# Where training scripts put the state dict among other things.
_WRAPPERS = ("state_dict", "model")
_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a file or its neighbours say about the model; None is not said."""

    image_size: int | tuple[int, int] | None = None
    gelu: str | None = None
    norm_eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Settings]:
    """Tensors in float32 and settings of a file, or of a Hugging Face or timm folder.

    Raises BadModel for what is no checkpoint, FileNotFoundError for what is not there.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        found = [name for name in _FOLDER if (path / name).exists()]
        if not found:
            raise BadModel(f"{path} has none of {', '.join(_FOLDER)}")
        path = path / found[0]
    belongs = path.name in _FOLDER
    return _read_tensors(path), _read_settings(folder) if belongs else Settings()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _from_numpy(arrays[name]) for name in arrays.files}
    if path.suffix == ".safetensors":
        return _floats(load_file(path), path)
    if path.name.endswith(".index.json"):
        shards = set(json.loads(path.read_text())["weight_map"].values())
        parts = [load_file(path.parent / Path(shard).name) for shard in sorted(shards)]
        return _floats({name: tensor for part in parts for name, tensor in part.items()}, path)
    if path.suffix in (".pt", ".pth", ".bin"):
        content = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in _WRAPPERS:
            if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
                content = content[wrapper]
        if not isinstance(content, dict):
            raise BadModel(f"{path} holds a {type(content).__name__}, wanted a state dict")
        return _floats({k.removeprefix("module."): v for k, v in content.items()}, path)
    raise BadModel(f"{path}: known are .npz .safetensors .pt .pth .bin, found {path.suffix!r}")


def _floats(tensors: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    if strange := [name for name, value in tensors.items() if not isinstance(value, Tensor)]:
        raise BadModel(f"{path}: {strange} are no tensors")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _from_numpy(array: np.ndarray) -> Tensor:
    """Float32; numpy has no bfloat16, so JAX's comes as two nameless bytes."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        bits = array.view(np.uint16).astype(np.uint32) << 16
        array = bits.view(np.float32)
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _read_settings(folder: Path) -> Settings:
    if not (folder / "config.json").exists():
        return Settings()
    config = json.loads((folder / "config.json").read_text())
    if "architecture" in config:  # timm
        pixels = config.get("pretrained_cfg", config)
        activation = config.get("model_args", {}).get("act_layer", "gelu")
        size = pixels.get("input_size")
        return Settings(
            image_size=(size[1], size[2]) if size else None,
            gelu=_gelu(activation),
            mean=_floats_or_none(pixels.get("mean")),
            std=_floats_or_none(pixels.get("std")),
        )
    size = config.get("image_size")
    pixels = {}
    if (folder / "preprocessor_config.json").exists():
        pixels = json.loads((folder / "preprocessor_config.json").read_text())
    return Settings(
        image_size=tuple(size) if isinstance(size, list) else size,
        gelu=_gelu(config.get("hidden_act", "gelu")),
        norm_eps=config.get("layer_norm_eps", 1e-12),
        mean=_floats_or_none(pixels.get("image_mean")),
        std=_floats_or_none(pixels.get("image_std")),
    )


def _gelu(activation: str) -> str:
    known = {
        "gelu": "exact",
        "gelu_tanh": "tanh",
        "gelu_new": "tanh",
        "gelu_pytorch_tanh": "tanh",
        "gelu_fast": "tanh",
    }
    if activation not in known:
        raise BadModel(f"unknown activation {activation!r}; known: {sorted(known)}")
    return known[activation]


def _floats_or_none(values: list[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)
