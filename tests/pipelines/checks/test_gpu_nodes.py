"""Nodes with GPUs: what they say is judged; a node whose GPUs torch cannot use is found."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from pipelines.checks import gpu_nodes
from pipelines.checks.gpu_nodes import check_gpu_nodes, finding_of
from pipelines.cli.command_line import read_command

H100: dict[str, Any] = {
    "node": "10.0.0.1",
    "gpus": 8,
    "driver": "580.65.06",
    "torch_cuda": "13.0",
    "names": ["NVIDIA H100 80GB HBM3"] * 8,
    "capability": [9, 0],
    "nccl": "2.29.7",
    "gigabytes_per_second": 463.2,
    "trouble": "",
}
BUSY = {"node": "10.0.0.2", "gpus": 8}


def test_good_nodes_are_named_with_driver_and_bandwidth() -> None:
    found = finding_of([H100, {**H100, "node": "10.0.0.3"}, BUSY], bfloat16=True)
    assert found.status == "ok"
    for fact in ("2 nodes", "8 x NVIDIA H100", "580.65.06", "13.0", "463 GB/s", "1 more"):
        assert fact in found.text


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"gigabytes_per_second": 224.0}, ["10.0.0.1", "224 GB/s", "450", "link-gigabytes 224"]),
        ({"names": ["NVIDIA A100-SXM4-40GB"] * 8, "gigabytes_per_second": 149.0}, ["300"]),
        ({"names": ["NVIDIA L40S"] * 8, "gigabytes_per_second": 15.9}, ["32", "15.9"]),
    ],
    ids=["H100", "A100", "L40S"],
)
def test_gpus_that_talk_at_less_than_half_of_the_plan_are_a_warning(
    change: dict[str, Any], facts: list[str]
) -> None:
    found = finding_of([H100 | change], bfloat16=True)
    assert found.status == "warn"
    for fact in facts:
        assert fact in found.text


@pytest.mark.parametrize(
    "change",
    [
        {"gigabytes_per_second": 225.0},
        {"names": ["NVIDIA A100-SXM4-40GB"] * 8, "gigabytes_per_second": 150.0},
        {"names": ["NVIDIA RTX 9"] * 8, "gigabytes_per_second": 1.0},
    ],
    ids=["H100", "A100", "unknown"],
)
def test_half_of_the_plan_and_unknown_cards_are_accepted(change: dict[str, Any]) -> None:
    assert finding_of([H100 | change], bfloat16=True).status == "ok"


A100 = {"names": ["NVIDIA A100-SXM4-40GB"] * 8}


@pytest.mark.parametrize(
    ("machine", "rate", "facts"),
    [
        ("p5.48xlarge", 24.0, ["2 nodes", "24 GB/s", "50", "EFA", "network-gigabytes 24"]),
        ("p5.48xlarge", 25.0, []),
        ("Google Compute Engine", 12.0, ["25"]),
        ("Google Compute Engine", 12.5, []),
        ("ProLiant", 1.0, []),
    ],
)
def test_nodes_that_talk_at_less_than_half_of_the_plan_are_a_warning(
    machine: str, rate: float, facts: list[str]
) -> None:
    nodes = [H100 | {"machine": machine}, H100 | {"machine": machine, "node": "10.0.0.3"}]
    found = finding_of(nodes, {"gigabytes_per_second": rate}, bfloat16=True)
    assert found.status == ("warn" if facts else "ok")
    for fact in facts or [f"between nodes {rate:g} GB/s"]:
        assert fact in found.text


def test_an_a100_at_google_has_the_network_of_an_a2() -> None:
    node = H100 | A100 | {"machine": "Google Compute Engine"}
    found = finding_of([node, node], {"gigabytes_per_second": 6.0}, bfloat16=True)
    assert "12.5" in found.text


def test_nodes_that_cannot_reach_each_other_are_a_warning() -> None:
    found = finding_of([H100, H100], {"trouble": "3 of 16 GPUs did not answer"}, bfloat16=True)
    assert found.status == "warn"
    assert "3 of 16 GPUs did not answer" in found.text


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"driver": "550.54.15", "trouble": "too old"}, ["10.0.0.1", "550.54.15", "580"]),
        ({"driver": None, "names": [], "trouble": "no device"}, ["no device", "nvidia-smi"]),
        ({"names": ["NVIDIA H100 80GB HBM3"] * 4}, ["8 GPUs", "torch 4"]),
        ({"capability": [7, 5]}, ["bfloat16", "--stage.precision float32"]),
    ],
    ids=["driver", "container", "count", "bfloat16"],
)
def test_a_node_that_cannot_train_is_named_with_the_reason(
    change: dict[str, Any], facts: list[str]
) -> None:
    found = finding_of([{**H100, "node": "10.0.0.9"}, {**H100, **change}], bfloat16=True)
    assert found.status == "FAIL"
    for fact in facts:
        assert fact in found.text


def test_nodes_that_are_busy_or_absent_are_no_failure() -> None:
    assert finding_of([], bfloat16=True).status == "ok"
    assert finding_of([BUSY], bfloat16=True).status == "warn"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")
def test_a_node_whose_gpus_torch_cannot_use_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real cluster that claims two GPUs, as a node does whose container does not see them."""
    head = (
        "import ray, sys\n"
        "ray.init('local', num_cpus=1, num_gpus=2, include_dashboard=False)\n"
        "print(ray.get_runtime_context().gcs_address, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", head], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr(gpu_nodes, "SECONDS", 120.0)
        found = check_gpu_nodes(read_command([], prog="doctor.py", description=""))
        cluster.communicate("")
    assert found.status == "FAIL"
    assert "torch cannot use its 2 GPUs" in found.text
