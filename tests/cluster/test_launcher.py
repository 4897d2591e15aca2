"""aws.yaml and gcp.yaml against Ray's own schema and against launcher_rules; and their places."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.scaling import worker_counts
from cluster.settings import read_place
from pipelines.recipes import find_recipe
from tests.cluster.support.launcher_rules import breaches

FOLDER = Path(__file__).parents[2] / "cluster"
Config = dict[str, Any]


def launcher(cloud: str) -> Config:
    return yaml.safe_load((FOLDER / f"{cloud}.yaml").read_text())


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_takes_the_file_and_it_keeps_the_rules(cloud: str) -> None:
    config = launcher(cloud)
    validate_config(prepare_config(config))
    assert breaches(config) == []


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_refuses_a_misspelt_key(cloud: str) -> None:
    config = launcher(cloud)
    config["available_node_types"]["gpu-spot"]["max_worker"] = 3
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(config))


def node(group: str) -> Callable[[Config], Config]:
    return lambda config: config["available_node_types"][group]


def settings(group: str) -> Callable[[Config], Config]:
    return lambda config: config["available_node_types"][group]["node_config"]


def top(config: Config) -> Config:
    return config


def part(name: str) -> Callable[[Config], Config]:
    return lambda config: config[name]


def options(group: str, *kept: str) -> Any:
    """The group's containers started with these options alone, as the rest of a slip."""
    return node(group), "docker", {"worker_run_options": list(kept)}


NOTHING = object()
WAIT = "until nvidia-smi; do sleep 5; done"
HEAD_START = "ulimit -n 65536; RAY_AUTH_MODE=token ray start --head --port=6379"
SLIPS: list[tuple[str, Callable[[Config], Config], str, Any, str]] = [
    ("aws", top, "setup_commands", NOTHING, "setup_commands is left to Ray's default"),
    ("aws", top, "head_start_ray_commands", ["ray start --head"], "without a token"),
    ("aws", top, "head_start_ray_commands", [HEAD_START], "dashboard is not on loopback"),
    ("aws", top, "head_start_ray_commands", [HEAD_START + " --dashboard-host=0.0.0.0"], "every"),
    ("aws", top, "head_start_ray_commands", ["mlflow server --host 10.0.0.1"], "every address"),
    ("aws", top, "worker_start_ray_commands", [], "worker_start_ray_commands does not start Ray"),
    ("aws", top, "setup_commands", ["pip install ray"], "not pinned"),
    ("aws", top, "file_mounts", {}, "the token is not mounted"),
    ("aws", part("docker"), "image", "rayproject/ray:latest", "image is not pinned"),
    ("aws", part("docker"), "run_options", [], "does not reach the container"),
    ("aws", node("head"), "resources", {"CPU": 8}, "head: the head must hold no task"),
    ("aws", settings("head"), "InstanceMarketOptions", {"MarketType": "spot"}, "not be on spot"),
    ("aws", settings("gpu-spot"), "InstanceMarketOptions", NOTHING, "workers must be on spot"),
    ("aws", node("cpu-spot"), "min_workers", 1, "must start at 0"),
    ("aws", settings("cpu-spot"), "IamInstanceProfile", NOTHING, "has no role of its own"),
    ("aws", settings("cpu-spot"), "SecurityGroupIds", NOTHING, "SSH to the world"),
    ("aws", settings("gpu-spot"), "NetworkInterfaces", [{"SubnetId": "x"}], "SSH to the world"),
    ("aws", settings("head"), "MetadataOptions", NOTHING, "takes IMDSv1"),
    ("aws", settings("head"), "BlockDeviceMappings", [{"Ebs": {}}], "not encrypted"),
    ("aws", settings("head"), "ImageId", NOTHING, "has no image"),
    ("gcp", settings("gpu-spot"), "scheduling", {}, "workers must be on spot"),
    ("gcp", settings("head"), "serviceAccounts", NOTHING, "has no account of its own"),
    ("gcp", settings("cpu-spot"), "metadata", {"items": []}, "every key of the project"),
    ("gcp", settings("head"), "tags", NOTHING, "firewall rules do not apply"),
    ("gcp", settings("head"), "networkInterfaces", [{"subnetwork": "default"}], "own network"),
    *[
        slip
        for cloud in ("aws", "gcp")
        for slip in (
            (cloud, node("gpu-spot"), "docker", {}, "gpu-spot: its containers see no GPU"),
            (cloud, *options("gpu-spot", "--gpus=all"), "may not lock memory"),
            (cloud, *options("gpu-spot", "--ulimit memlock=-1"), "told NCCL_SOCKET_IFNAME=^lo"),
            (cloud, *options("gpu-spot"), "told NCCL_DEBUG=WARN"),
            (cloud, *options("gpu-spot"), "may not grow its segments"),
            (cloud, node("gpu-spot"), "initialization_commands", [], "not wait for the driver"),
            (
                cloud,
                node("gpu-h100-spot"),
                "initialization_commands",
                [WAIT],
                "leaves out what all",
            ),
            (cloud, node("cpu-spot"), "initialization_commands", [WAIT], "GPUs that it has not"),
            (cloud, node("gpu-h100-spot"), "max_workers", 4, "several kinds may train together"),
            (cloud, part("available_node_types"), "gpu-h100-spot", NOTHING, "A100 and with H100"),
            (cloud, top, "worker_start_ray_commands", ["ray start"], "tells Ray of a spot notice"),
            (cloud, part("provider"), "availability_zone", "a,b", "in several zones"),
        )
    ],
    ("aws", part("provider"), "availability_zone", NOTHING, "in several zones"),
    ("aws", settings("gpu-spot"), "Placement", NOTHING, "far from each other"),
    ("gcp", settings("gpu-spot"), "resourcePolicies", [], "far from each other"),
    ("aws", settings("gpu-spot"), "NetworkInterfaces", [{"Groups": ["sg"]}], "without EFA"),
    ("aws", *options("gpu-spot"), "see no EFA"),
    ("aws", *options("gpu-spot", "--device=/dev/infiniband"), "another network than EFA"),
    ("gcp", settings("gpu-spot"), "networkInterfaces", NOTHING, "without gVNIC"),
]


@pytest.mark.parametrize(("cloud", "where", "key", "value", "said"), SLIPS)
def test_a_slip_is_found(
    cloud: str, where: Callable[[Config], Config], key: str, value: Any, said: str
) -> None:
    config = launcher(cloud)
    if value is NOTHING:
        del where(config)[key]
    else:
        where(config)[key] = value
    found = breaches(config)
    assert any(said in line for line in found), found


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_place_fits_its_cluster(cloud: str) -> None:
    place = read_place(FOLDER / f"place-{cloud}.yaml")
    gpus = launcher(cloud)["available_node_types"]["gpu-spot"]["max_workers"] * 8
    assert place.workers.max <= gpus
    assert place.wait_for_nodes, "the cluster starts without a GPU"
    assert place.storage_root.startswith("s3://")
    assert place.data_root.startswith("s3://")
    for stage in find_recipe(place.recipe).stages:
        counts = worker_counts(place.workers, global_batch=stage.global_batch)
        assert (counts[0], counts[-1]) == (place.workers.min, place.workers.max), stage.name
