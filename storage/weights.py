"""Weights that one stage hands to the next, and a manifest that is written last (`commits`).

    <uri>/weights-<sha256, 12 digits>.safetensors       timm key names, float32
          weights_ema-<sha256, 12 digits>.safetensors   if the recipe keeps an average
          manifest.json                                 "files": weights.safetensors -> "name", ...

The checksum in the file names separates two writers of one attempt: each uploads its own files, and
the first manifest names those of its writer. Older manifests have no "name" and mean the file
weights.safetensors.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from storage.checksum import sha256_file
from storage.commits import MANIFEST, check_finite, fetch, publish, read_manifest
from storage.errors import BadInput, StorageError, WeightsExist, WeightsNotFound
from storage.objects import open_store
from storage.store import ObjectStore
from storage.tensors import load_tensors, save_tensors
from storage.uri import join

_log = logging.getLogger(__name__)
__all__ = [
    "MANIFEST",
    "commit",
    "committed",
    "file_name",
    "not_found",
    "read_manifest",
    "read_tensors",
    "read_weights",
]


def commit(
    uri: str,
    tensors: Mapping[str, torch.Tensor],
    manifest: Mapping[str, Any],
    *,
    ema: Mapping[str, torch.Tensor] | None = None,
    adapters: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, Any]:
    """Write the weights, then the manifest; return the manifest as written.

    `ema` is an average of the weights, `adapters` what was trained of them where that is a part.

    `manifest` gains the key "files": name -> {"name", "bytes", "sha256"}. Tensors are float32 on
    any device. Nothing is uploaded if weights or metrics are not finite.
    Raises WeightsExist if weights are already committed, BadInput, Unavailable.
    """
    store = open_store(uri)
    if store.exists(MANIFEST):
        raise WeightsExist(f"{store.uri} is committed already, and a commit is never overwritten")
    check_finite(uri, manifest)
    given = {"weights": tensors, "weights_ema": ema, "adapters": adapters}
    kinds = {name: kind for name, kind in given.items() if kind is not None}
    for kind in kinds.values():
        _check(store, kind)
    files = {f"{kind}.safetensors": _put(store, kind, found) for kind, found in kinds.items()}
    try:
        written = publish(uri, manifest, files)
    except WeightsExist:
        with suppress(StorageError):  # the reason why there is no commit is the one to report
            _remove_unnamed(uri, store, files)
        raise
    try:
        store.sweep()
    except StorageError as error:  # the commit is valid; leftovers only take space
        _log.warning("files of killed writers at %s could not be removed: %s", store.uri, error)
    return written


def file_name(manifest: Mapping[str, Any], file: str = "weights.safetensors") -> str:
    """Name that a file of a commit is stored under, beside its manifest."""
    return str(manifest["files"][file].get("name", file))


def _check(store: ObjectStore, tensors: Mapping[str, torch.Tensor]) -> None:
    """Check dtype and finiteness before anything is uploaded. Raises BadInput."""
    for key, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise BadInput(f"tensor {key!r} for {store.uri} is {tensor.dtype}: weights are float32")
    bad = [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise BadInput(
            f"nothing was committed at {store.uri}: {', '.join(bad[:3])}{more} hold NaN or infinite"
            " values; lower optim.peak_lr or set optim.clip_norm"
        )


def _put(store: ObjectStore, kind: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    # clone: safetensors refuses tensors that share memory
    ready = {key: tensor.detach().to("cpu").contiguous().clone() for key, tensor in tensors.items()}
    with tempfile.TemporaryDirectory(prefix="vit-on-ray-") as folder:
        path = Path(folder) / f"{kind}.safetensors"
        save_tensors(ready, path)
        sha256 = sha256_file(path)
        name = f"{kind}-{sha256[:12]}.safetensors"
        store.upload(name, path)
        return {"name": name, "bytes": path.stat().st_size, "sha256": sha256}


def _remove_unnamed(uri: str, store: ObjectStore, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Remove the files of a writer that came second, unless the commit names them too."""
    manifest = read_manifest(uri)
    if manifest is None:
        return
    named = {file_name(manifest, file) for file in manifest["files"]}
    for entry in files.values():
        if entry["name"] not in named:
            store.delete(entry["name"])


def read_weights(
    uri: str, *, name: str = "weights"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read tensors (on the CPU) and the manifest. `name` is "weights" or "weights_ema".

    Raises WeightsNotFound, CorruptWeights (which names the file), Unavailable.
    """
    manifest = read_manifest(uri)
    if manifest is None:
        raise not_found(uri)
    return read_tensors(uri, manifest["files"], name=name), manifest


def read_tensors(
    uri: str, files: Mapping[str, Mapping[str, Any]], *, name: str = "weights"
) -> dict[str, torch.Tensor]:
    """Read tensors (on the CPU) of a commit whose manifest was read: `files` is its "files".

    Raises WeightsNotFound, CorruptWeights (which names the file), Unavailable.
    """
    store, file = open_store(uri), f"{name}.safetensors"
    if file not in files:
        raise WeightsNotFound(f"{store.uri} has no {file}; it has {', '.join(sorted(files))}")
    with tempfile.TemporaryDirectory(prefix="vit-on-ray-") as folder:
        path = fetch(store, file, files[file], Path(folder))
        return load_tensors(path, f"{store.uri}/{file_name({'files': files}, file)}")


def not_found(uri: str) -> WeightsNotFound:
    """The error for a URI without committed weights."""
    return WeightsNotFound(
        f"no committed weights under {open_store(uri).uri}: it has no {MANIFEST}"
    )


def committed(uri: str) -> list[tuple[str, dict[str, Any]]]:
    """Direct children of a URI that have committed weights: (name, manifest), sorted by name."""
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
