"""gcp.yaml through Ray's preparation, bootstrap and node provider, with Google's HTTP a dictionary.

What Ray would send to Compute Engine is held against Google's own description of that API, which
the package google-api-python-client ships. No machine, account or network is Google's here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httplib2
import pytest
import yaml
from googleapiclient.discovery_cache import get_static_doc
from ray.autoscaler._private.gcp.config import bootstrap_gcp
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config

FOLDER = Path(__file__).parents[2] / "cluster"
PROJECT = "my-project-1"
SCHEMAS = json.loads(get_static_doc("compute", "v1") or "{}")["schemas"]
Config = dict[str, Any]


class Google:
    """Answers what `ray up` asks; keeps what it is told to make."""

    def __init__(self) -> None:
        self.machines: list[Config] = []
        self.changed: list[str] = []

    def request(
        self, uri: str, method: str = "GET", body: Any = None, **rest: Any
    ) -> tuple[Any, bytes]:
        path = uri.split("?")[0]
        sent = json.loads(body) if body else {}
        if method == "POST" and path.endswith("/instances"):
            self.machines.append(sent)
            answer: Config = {"name": "operation-1", "status": "DONE"}
        elif "/zoneOperations/" in path or "/operations/" in path:
            answer = {"name": "operation-1", "status": "DONE"}
        elif path.endswith(":getIamPolicy"):
            answer = {"bindings": []}
        elif "serviceAccounts" in path:
            answer = {"email": f"ray-autoscaler-sa-v1@{PROJECT}", "projectId": PROJECT}
        else:
            answer = {"projectId": PROJECT, "lifecycleState": "ACTIVE", "name": PROJECT}
            if method != "GET":
                self.changed.append(path.rsplit("/", 1)[-1])
        return httplib2.Response({"status": 200}), json.dumps(answer).encode()


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Google:
    google = Google()
    monkeypatch.setattr(httplib2.Http, "request", lambda http, *a, **k: google.request(*a, **k))
    return google


def filled_in() -> Config:
    text = (FOLDER / "gcp.yaml").read_text()
    for word, value in (
        ("MY_PROJECT", PROJECT),
        ("MY_IMAGE", "common-cu128-v20261101"),
        ("MY_SSH_PUBLIC_KEY", "ssh-ed25519 AAAA me"),
    ):
        text = text.replace(word, value)
    assert "MY_" not in text.replace("MY_...", ""), "a word that docs/cluster.md does not fill in"
    config = yaml.safe_load(text)
    config["provider"]["gcp_credentials"] = {"type": "credentials_token", "credentials": "test"}
    return config


def unknown(value: Any, schema: Config, where: str) -> Iterator[str]:
    """Fields that the API's description does not have, and values it does not list."""
    schema = SCHEMAS[schema["$ref"]] if "$ref" in schema else schema
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value} is none of {schema['enum']}"
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown(item, schema["items"], f"{where}[{index}]")
    elif isinstance(value, dict) and "properties" in schema:
        for key, item in value.items():
            if key in schema["properties"]:
                yield from unknown(item, schema["properties"][key], f"{where}.{key}")
            else:
                yield f"{where}: no field {key}"


def test_ray_would_start_machines_that_the_api_knows(google: Google) -> None:
    config = bootstrap_gcp(prepare_config(filled_in()))
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    head = {**config["head_node"], **config["available_node_types"]["head"]["node_config"]}
    provider.create_node(head, {"ray-node-type": "head", "ray-node-name": "head"}, 1)
    for group in ("gpu-spot", "gpu-h100-spot", "cpu-spot"):
        node_config = config["available_node_types"][group]["node_config"]
        provider.create_node(node_config, {"ray-node-type": "worker", "ray-node-name": group}, 1)

    problems = [
        line for m in google.machines for line in unknown(m, {"$ref": "Instance"}, m["name"])
    ]
    assert problems == []
    assert [machine["machineType"].rsplit("/", 1)[-1] for machine in google.machines] == [
        "n2-standard-8",
        "a2-highgpu-8g",
        "a3-highgpu-8g",
        "n2-standard-32",
    ]
    spot = [m.get("scheduling", {}).get("provisioningModel") == "SPOT" for m in google.machines]
    assert spot == [False, True, True, True]
    accounts = [m["serviceAccounts"][0]["email"].split("@")[0] for m in google.machines]
    assert accounts == ["vit-on-ray-head", *["vit-on-ray-node"] * 3]
    near = [bool(machine.get("resourcePolicies")) for machine in google.machines]
    assert near == [False, True, True, False]


def test_ray_adds_no_ssh_key_to_the_project(google: Google) -> None:
    bootstrap_gcp(prepare_config(filled_in()))
    assert "setCommonInstanceMetadata" not in google.changed


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("machinType", "n2-standard-8", "no field machinType"),
        ("scheduling", {"provisioningModel": "SPOTTY"}, "SPOTTY is none of"),
        ("disks", [{"initializeParams": {"diskSizeGB": 200}}], "no field diskSizeGB"),
    ],
)
def test_a_slip_in_a_machine_is_found(key: str, value: Any, said: str) -> None:
    machine = filled_in()["available_node_types"]["gpu-spot"]["node_config"] | {key: value}
    assert any(said in line for line in unknown(machine, {"$ref": "Instance"}, "gpu-spot"))


def test_the_head_role_has_no_wide_permission() -> None:
    role = yaml.safe_load((FOLDER / "iam" / "gcp-head-role.yaml").read_text())
    assert set(role) == {"title", "description", "stage", "includedPermissions"}
    wide = ("setIamPolicy", "actAs", "iam.", "*", "storage.", "firewalls")
    assert not [p for p in role["includedPermissions"] if any(part in p for part in wide)]
    assert all(p.startswith("compute.") for p in role["includedPermissions"])
