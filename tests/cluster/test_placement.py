"""Which nodes decode, and how many CPUs more they would need: decisions over `ray.nodes()`."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import BadPlace
from cluster.placement import ROLE, TRAINS, decoding_cpus, decoding_selector, more_cpus
from cluster.settings import read_place
from tests.cluster.support.kustomize import build

ROOT = Path(__file__).parents[2] / "cluster"


def node(name: str, *, cpus: float, gpus: float = 0, alive: bool = True, **labels: str) -> Any:
    resources = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return {"Alive": alive, "Resources": resources, "Labels": {"ray.io/node-id": name, **labels}}


HEAD = node("head", cpus=0)
CPU = node("cpu", cpus=32)
GPU = node("gpu", cpus=96, gpus=8, role="train")
FOUND = node("found", cpus=96, gpus=8)
FOUND["Labels"]["ray.io/accelerator-type"] = "A100"
FAKE = node("fake", cpus=4, gpus=1)


@pytest.mark.parametrize(
    ("nodes", "selector"),
    [
        ([HEAD, CPU], {"role": "!train"}),
        ([HEAD, CPU, GPU], {"role": "!train"}),
        ([CPU, FOUND], {"role": "!train", "ray.io/accelerator-type": "!in(A100)"}),
        ([CPU, FAKE], {"role": "!train", "ray.io/node-id": "!in(fake)"}),
        ([HEAD, GPU], {}),  # or nobody would decode
        ([HEAD, GPU, node("gone", cpus=8, alive=False)], {}),
    ],
)
def test_decoding_keeps_off_gpu_nodes_where_there_are_others(
    nodes: list[Any], selector: dict[str, str]
) -> None:
    assert decoding_selector(nodes, on_gpu_nodes=None, more_to_come=False) == selector
    assert decoding_selector(nodes, on_gpu_nodes=True, more_to_come=False) == {}


def test_nodes_to_come_are_chosen_by_their_groups_label() -> None:
    assert decoding_selector([HEAD], on_gpu_nodes=None, more_to_come=True) == {"role": "!train"}
    assert decoding_selector([HEAD, GPU], on_gpu_nodes=None, more_to_come=True) == {
        "role": "!train"
    }


def test_no_node_to_decode_on_is_refused_with_the_way_out() -> None:
    with pytest.raises(BadPlace, match=r"none of the 2 nodes .*decode-on-gpu-nodes True"):
        decoding_selector([HEAD, GPU], on_gpu_nodes=False, more_to_come=False)


@pytest.mark.parametrize(
    ("nodes", "on_gpu_nodes", "worker_gpus", "cpus"),
    [
        ([HEAD, CPU, GPU], None, 1, 32),  # the workers' CPUs are on the GPU nodes
        ([HEAD, CPU, GPU], True, 1, 32 + 96 - 8),
        ([HEAD, GPU], None, 1, 96 - 8),
        ([CPU], None, 0, 32 - 8),
        ([node("small", cpus=4)], None, 0, 0),
    ],
)
def test_decoding_has_the_cpus_that_no_worker_holds(
    nodes: list[Any], on_gpu_nodes: bool | None, worker_gpus: int, cpus: float
) -> None:
    assert cpus == decoding_cpus(
        nodes, on_gpu_nodes=on_gpu_nodes, workers=8, worker_cpus=1.0, worker_gpus=worker_gpus
    )


def test_missing_cpus_follow_from_the_time_waited() -> None:
    # workers wait a quarter of the time for what 12 CPUs decode: 16 would be enough
    assert more_cpus(12, wait_fraction=0.25) == 4
    assert more_cpus(12, wait_fraction=0.04) == 0
    assert more_cpus(12, wait_fraction=1.0) == 9 * 12
    assert more_cpus(0, wait_fraction=0.5) == 0


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_launcher_groups_with_gpus_are_labelled_and_the_others_are_not(name: str) -> None:
    types = yaml.safe_load((ROOT / name).read_text())["available_node_types"]
    with_gpus = {group for group in types if group.startswith("gpu-")}
    assert "gpu-spot" in with_gpus
    assert {group for group, of in types.items() if of["labels"].get(ROLE) == TRAINS} == with_gpus
    assert types["head"]["resources"] == {"CPU": 0}  # no task, hence no block, is made there


def test_kuberay_groups_with_gpus_are_labelled_and_the_others_are_not() -> None:
    cluster = yaml.safe_load((ROOT / "kuberay" / "base" / "raycluster.yaml").read_text())["spec"]
    groups = {group["groupName"]: group.get("labels", {}) for group in cluster["workerGroupSpecs"]}
    assert groups == {"gpu-spot": {ROLE: TRAINS}, "cpu-spot": {}}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize(
    ("place", "cluster"),
    [
        ("place-aws.yaml", "aws.yaml"),
        ("place-gcp.yaml", "gcp.yaml"),
        ("kuberay/base/ray_config.yaml", "kuberay/base"),
        ("kuberay/overlays/eks/ray_config.yaml", "kuberay/overlays/eks"),
    ],
)
def test_gpu_nodes_decode_and_none_is_brought_for_that_alone(place: str, cluster: str) -> None:
    settings = read_place(ROOT / place)
    assert settings.decode_on_gpu_nodes
    if (ROOT / cluster).is_dir():
        (ray,) = (each for each in build(ROOT / cluster) if each["kind"] == "RayCluster")
        groups = {group["groupName"]: group for group in ray["spec"]["workerGroupSpecs"]}
        most = groups["gpu-spot"]["maxReplicas"]
    else:
        said = yaml.safe_load((ROOT / cluster).read_text())
        most = said["available_node_types"]["gpu-spot"]["max_workers"]
    assert 8 * most == settings.workers.fewest
    assert settings.workers.cpus == 4
