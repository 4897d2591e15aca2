"""What one stage leaves for the next: weights.safetensors, and a manifest written last.

    <uri>/weights.safetensors       timm key names, float32
          weights_ema.safetensors   where the recipe keeps an average
          manifest.json             written LAST: its presence is the commit

A folder without manifest.json is not there, whatever else lies in it; a commit is never
overwritten.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from storage.checksum import sha256_file
from storage.errors import (
    BadInput,
    CorruptWeights,
    ObjectExists,
    ObjectNotFound,
    WeightsExist,
    WeightsNotFound,
)
from storage.objects import open_store
from storage.store import ObjectStore
from storage.uri import join

MANIFEST = "manifest.json"


def commit(
    uri: str,
    tensors: Mapping[str, torch.Tensor],
    manifest: Mapping[str, Any],
    *,
    ema: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, Any]:
    """Write the weights, then the manifest; return the manifest as written.

    `manifest` gains the key "files": name -> {"bytes", "sha256"}. Tensors are float32, any device.
    Raises WeightsExist where weights are already committed, BadInput, Unavailable.
    """
    store = open_store(uri)
    if store.exists(MANIFEST):
        raise WeightsExist(f"{store.uri} is committed already, and a commit is never overwritten")
    files = {"weights.safetensors": _put(store, "weights.safetensors", tensors)}
    if ema is not None:
        files["weights_ema.safetensors"] = _put(store, "weights_ema.safetensors", ema)
    return publish(uri, manifest, files)


def publish(
    uri: str, manifest: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Commit files that lie there already, name -> {"bytes", "sha256"}; return the manifest.

    Raises WeightsExist, BadInput, Unavailable.
    """
    store = open_store(uri)
    whole = {**manifest, "files": files}
    text = json.dumps(whole, indent=1, allow_nan=False)
    try:
        store.write(MANIFEST, text.encode() + b"\n", if_absent=True)
    except ObjectExists:
        raise WeightsExist(
            f"{store.uri} was committed by another writer at the same time; its files may now be"
            " ours: compare the checksums, and give each attempt a place of its own"
        ) from None
    return whole


def _put(store: ObjectStore, name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    ready = {key: _ready(store, key, tensor) for key, tensor in tensors.items()}
    with tempfile.TemporaryDirectory(prefix="vit-on-ray-") as folder:
        path = Path(folder) / name
        save_file(ready, path)
        store.upload(name, path)
        return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _ready(store: ObjectStore, key: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype != torch.float32:
        raise BadInput(f"tensor {key!r} for {store.uri} is {tensor.dtype}: weights are float32")
    # clone: safetensors refuses tensors that share memory
    return tensor.detach().to("cpu").contiguous().clone()


def read_manifest(uri: str) -> dict[str, Any] | None:
    """The manifest, or None where nothing is committed. Raises CorruptWeights, Unavailable."""
    store = open_store(uri)
    try:
        data = store.read(MANIFEST)
    except ObjectNotFound:
        return None
    try:
        manifest = json.loads(data)
        files = manifest["files"]
        assert all("bytes" in entry and "sha256" in entry for entry in files.values())
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise CorruptWeights(f"{store.uri}/{MANIFEST} is not a manifest of weights") from None
    return manifest


def read_weights(
    uri: str, *, name: str = "weights"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and the manifest. `name` is "weights" or "weights_ema".

    Raises WeightsNotFound, CorruptWeights (which names the file), Unavailable.
    """
    manifest = read_manifest(uri)
    store = open_store(uri)
    if manifest is None:
        raise WeightsNotFound(f"no committed weights under {store.uri}: it has no {MANIFEST}")
    file = f"{name}.safetensors"
    if file not in manifest["files"]:
        raise WeightsNotFound(
            f"{store.uri} has no {file}; it has {', '.join(sorted(manifest['files']))}"
        )
    with tempfile.TemporaryDirectory(prefix="vit-on-ray-") as folder:
        path = fetch(store, file, manifest["files"][file], Path(folder))
        try:
            return load_file(path), manifest
        except SafetensorError as error:
            raise CorruptWeights(f"{store.uri}/{file} is not safetensors: {error}") from None


def verify(uri: str) -> None:
    """Read every file of a commit. Raises WeightsNotFound, CorruptWeights, Unavailable."""
    manifest = read_manifest(uri)
    store = open_store(uri)
    if manifest is None:
        raise WeightsNotFound(f"no committed weights under {store.uri}: it has no {MANIFEST}")
    for file, promised in manifest["files"].items():
        with tempfile.TemporaryDirectory(prefix="vit-on-ray-") as folder:
            fetch(store, file, promised, Path(folder))


def fetch(store: ObjectStore, file: str, promised: Mapping[str, Any], folder: Path) -> Path:
    """A local file that has the promised size and checksum: the store's own, or a copy in `folder`.

    Raises CorruptWeights, Unavailable.
    """
    try:
        path = store.local(file, folder)
    except ObjectNotFound:
        raise CorruptWeights(f"{store.uri}/{file} is missing, its manifest is not") from None
    _check(f"{store.uri}/{file}", path, promised)
    return path


def _check(where: str, path: Path, promised: Mapping[str, Any]) -> None:
    size, sha256 = path.stat().st_size, sha256_file(path)
    if size != promised["bytes"]:
        raise CorruptWeights(f"{where} has {size} bytes, its manifest says {promised['bytes']}")
    if sha256 != promised["sha256"]:
        raise CorruptWeights(
            f"{where} has sha256 {sha256}, its manifest says {promised['sha256']}: it is torn or "
            "was "
            "changed"
        )


def committed(uri: str) -> list[tuple[str, dict[str, Any]]]:
    """Direct children of a place that hold committed weights: (name, manifest), by name."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name in sorted(_children_with_manifest(open_store(uri))):
        manifest = read_manifest(join(uri, name))
        if manifest is not None:
            found.append((name, manifest))
    return found


def _children_with_manifest(store: ObjectStore) -> Iterator[str]:
    for key in store.list():
        name, _, rest = key.partition("/")
        if rest == MANIFEST:
            yield name
