"""The part of kustomize that cluster/kuberay uses: resources, namespace, images, ConfigMaps, JSON
patches. `kubectl kustomize` does the same where it is installed; a test holds the two together."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Manifest = dict[str, Any]
KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "images", "patches"),
    *("generatorOptions", "configMapGenerator"),
}


def documents(path: Path) -> list[Manifest]:
    """All YAML documents of a file; copies, because anchors share what they name."""
    return [deepcopy(each) for each in yaml.safe_load_all(path.read_text()) if each]


def build(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would send.

    Raises:
        ValueError: a key this does not know, a patch that changes nothing.
    """
    (spec,) = documents(folder / "kustomization.yaml")
    if set(spec) - KNOWN:
        raise ValueError(f"{folder}: keys that are not known here: {set(spec) - KNOWN}")
    found: list[Manifest] = []
    for name in spec["resources"]:
        path = folder / name
        found += build(path) if path.is_dir() else documents(path)
    for generator in spec.get("configMapGenerator", []):
        _generate(generator, folder, found)
    for patch in spec.get("patches", []):
        _patch(patch, found)
    for manifest in found:
        if "namespace" in spec and manifest["kind"] != "Namespace":
            manifest["metadata"]["namespace"] = spec["namespace"]
        for image in spec.get("images", []):
            _rename(manifest, image)
    return found


def _generate(generator: Manifest, folder: Path, found: list[Manifest]) -> None:
    data = dict(pair.split("=", 1) for pair in generator.get("literals", []))
    data |= {name: (folder / name).read_text() for name in generator.get("files", [])}
    old = [
        m for m in found if (m["kind"], m["metadata"]["name"]) == ("ConfigMap", generator["name"])
    ]
    if (generator.get("behavior") == "replace") != bool(old):
        raise ValueError(f"ConfigMap {generator['name']}: `replace` wants one of the base")
    if old:
        old[0]["data"] = data
        return
    metadata = {"name": generator["name"]}
    found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _patch(patch: Manifest, found: list[Manifest]) -> None:
    target = patch["target"]
    matching = _named(target["kind"], target["name"], found)
    if not matching:
        raise ValueError(f"a patch is for {target}, which is not there")
    for index in matching:
        found[index] = jsonpatch.apply_patch(found[index], yaml.safe_load(patch["patch"]))


def _named(kind: str, name: str, found: list[Manifest]) -> list[int]:
    whole = (kind, name)
    return [i for i, m in enumerate(found) if (m["kind"], m["metadata"]["name"]) == whole]


def _rename(value: Any, image: Manifest) -> None:
    for item in value if isinstance(value, list) else value.values():
        if isinstance(item, dict | list):
            _rename(item, image)
    if isinstance(value, dict) and str(value.get("image")).rpartition(":")[0] == image["name"]:
        value["image"] = f"{image['newName']}:{image['newTag']}"
