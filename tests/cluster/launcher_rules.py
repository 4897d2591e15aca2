"""What the launcher files must say, whatever else changes: each breach is one line.

Ray's schema checks neither `provider` nor `node_config`, and its defaults are unsafe, so these
rules are the only thing between a slip in a YAML file and an open cluster.
"""

from collections.abc import Iterator
from typing import Any

from ray.autoscaler._private.providers import _get_default_config

Config = dict[str, Any]


def breaches(config: Config) -> list[str]:
    """Every rule that a launcher file breaks."""
    cloud = {"aws": _aws, "gcp": _gcp}[config["provider"]["type"]]
    nodes = [
        f"{name}: {line}"
        for name, node in config["available_node_types"].items()
        for line in (*_group(name, node, config), *cloud(node["node_config"]))
    ]
    return [*_left_to_ray(config), *_commands(config), *_image(config), *nodes]


def _left_to_ray(config: Config) -> Iterator[str]:
    for key in set(_get_default_config(config["provider"])) - set(config):
        yield f"{key} is left to Ray's default"


def _commands(config: Config) -> Iterator[str]:
    commands = [command for key in config if key.endswith("_commands") for command in config[key]]
    for command in commands:
        if "0.0.0.0" in command or ("--host" in command and "--host 127.0.0.1" not in command):
            yield f"listens on every address: {command}"
        if "pip install" in command or "latest" in command or "curl" in command:
            yield f"installs something that is not pinned: {command}"
        if "ray start" in command and "RAY_AUTH_MODE=token ray start" not in command:
            yield f"starts Ray without a token: {command}"
        if "ray start --head" in command and "--dashboard-host=127.0.0.1" not in command:
            yield f"the dashboard is not on loopback: {command}"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        if not any("ray start" in command for command in config[key]):
            yield f"{key} does not start Ray"
    if "~/.ray/auth_token" not in config["file_mounts"]:
        yield "the token is not mounted"


def _image(config: Config) -> Iterator[str]:
    name, _, tag = config["docker"].get("image", "").rpartition(":")
    if not name or tag == "latest" or "nightly" in tag:
        yield "the image is not pinned"
    if "-e RAY_AUTH_MODE=token" not in config["docker"].get("run_options", []):
        yield "RAY_AUTH_MODE does not reach the container"


def _group(name: str, node: Config, config: Config) -> Iterator[str]:
    settings = node["node_config"]
    spot = (
        settings.get("InstanceMarketOptions") == {"MarketType": "spot"}
        or settings.get("scheduling", {}).get("provisioningModel") == "SPOT"
    )
    if name == config["head_node_type"]:
        if spot:
            yield "the head must not be on spot"
        if node["resources"] != {"CPU": 0}:
            yield "the head must hold no task"
        return
    if not spot:
        yield "workers must be on spot"
    if node.get("min_workers") != 0 or not node.get("max_workers"):
        yield "must start at 0 and have a limit"


def _aws(node: Config) -> Iterator[str]:
    if not str(node.get("IamInstanceProfile", {}).get("Name")).startswith("vit-on-ray-"):
        yield "has no role of its own"
    if not node.get("SecurityGroupIds"):
        yield "has no security group: Ray would open SSH to the world"
    if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
        yield "takes IMDSv1"
    if not all(disk["Ebs"].get("Encrypted") for disk in node.get("BlockDeviceMappings", [{}])):
        yield "has a disk that is not encrypted"
    if "ImageId" not in node:
        yield "has no image: Ray would take one of Ubuntu 18.04"


def _gcp(node: Config) -> Iterator[str]:
    accounts = [account["email"] for account in node.get("serviceAccounts", [])]
    if [email.split("@")[0] for email in accounts] not in (
        ["vit-on-ray-head"],
        ["vit-on-ray-node"],
    ):
        yield "has no account of its own"
    items = {item["key"]: item["value"] for item in node.get("metadata", {}).get("items", [])}
    if items.get("block-project-ssh-keys") != "TRUE":
        yield "lets every key of the project in"
    if "vit-on-ray" not in node.get("tags", {}).get("items", []):
        yield "has no tag: the firewall rules do not apply"
    if not all("/vit-on-ray" in net["subnetwork"] for net in node.get("networkInterfaces", [{}])):
        yield "is not in the cluster's own network"
