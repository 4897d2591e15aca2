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
        for line in (
            *_group(name, node, config),
            *_gpu_group(node, config),
            *cloud(node["node_config"]),
        )
    ]
    return [*_left_to_ray(config), *_commands(config), *_image(config), *_cluster(config), *nodes]


def _cluster(config: Config) -> Iterator[str]:
    if "," in config["provider"].get("availability_zone", ","):
        yield "GPU nodes may lie in several zones"
    kinds = [n for n in config["available_node_types"].values() if _has_gpus(n["node_config"])]
    if len([node for node in kinds if node.get("max_workers")]) > 1:
        yield "GPU nodes of several kinds may train together"
    if not {"p4d.24xlarge", "p5.48xlarge"} <= {_kind(n["node_config"]) for n in kinds} and not {
        "a2-highgpu-8g",
        "a3-highgpu-8g",
    } <= {_kind(n["node_config"]) for n in kinds}:
        yield "there are no nodes with A100 and with H100"
    cloud = config["provider"]["type"]
    poller = f"-m cluster.spot_notice --cloud {cloud} --address $RAY_HEAD_IP:6379"
    if not any(poller in command for command in config["worker_start_ray_commands"]):
        yield "nobody tells Ray of a spot notice"


def _kind(settings: Config) -> str:
    return settings.get("InstanceType") or settings.get("machineType", "")


def _has_gpus(settings: Config) -> bool:
    return _kind(settings).startswith(("p4", "p5", "a2-", "a3-"))


def _gpu_group(node: Config, config: Config) -> Iterator[str]:
    """What a node with GPUs needs, and others must not have."""
    options = node.get("docker", {}).get("worker_run_options", [])
    own = node.get("initialization_commands", config["initialization_commands"])
    if not _has_gpus(node["node_config"]):
        if "--gpus=all" in options or any("nvidia-smi" in command for command in own):
            yield "waits for GPUs that it has not"
        return
    if "--gpus=all" not in options:
        yield "its containers see no GPU"
    if "--ulimit memlock=-1" not in options:
        yield "its containers may not lock memory"
    for variable in ("NCCL_SOCKET_IFNAME=^lo,docker", "NCCL_DEBUG=WARN"):
        if f"-e {variable}" not in options:
            yield f"NCCL is not told {variable}"
    if "-e PYTORCH_ALLOC_CONF=expandable_segments:True" not in options:
        yield "torch's allocator may not grow its segments: memory is lost between them"
    if not own or "until nvidia-smi" not in own[0]:
        yield "does not wait for the driver"
    if not set(config["initialization_commands"]) <= set(own):
        yield "leaves out what all nodes run first"  # a group's commands replace the others
    settings = node["node_config"]
    if not settings.get("Placement", {}).get("GroupName") and not settings.get("resourcePolicies"):
        yield "its nodes may lie far from each other"
    interfaces = settings.get("NetworkInterfaces") or settings.get("networkInterfaces", [])
    if config["provider"]["type"] == "aws":
        if {one.get("InterfaceType") for one in interfaces} != {"efa"}:
            yield "its nodes talk by TCP, without EFA"
        elif "--device=/dev/infiniband" not in options:
            yield "its containers see no EFA"
        elif "-e FI_PROVIDER=efa" not in options:
            yield "libfabric may take another network than EFA"
    elif {one.get("nicType") for one in interfaces} != {"GVNIC"}:
        yield "its nodes talk without gVNIC"


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
    if node.get("min_workers") != 0 or "max_workers" not in node:
        yield "must start at 0 and have a limit"


def _aws(node: Config) -> Iterator[str]:
    if not str(node.get("IamInstanceProfile", {}).get("Name")).startswith("vit-on-ray-"):
        yield "has no role of its own"
    of_interfaces = [one.get("Groups") for one in node.get("NetworkInterfaces", [{}])]
    if not node.get("SecurityGroupIds") and not all(of_interfaces):
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
    if not all(
        "/vit-on-ray" in net.get("subnetwork", "") for net in node.get("networkInterfaces", [{}])
    ):
        yield "is not in the cluster's own network"
