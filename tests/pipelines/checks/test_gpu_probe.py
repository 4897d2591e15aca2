"""What is sent to nodes with GPUs: its report, its all-reduce, and who is asked for what."""

import json
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ray.exceptions import RayError
from torch.cuda import nccl
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  # public

from pipelines.checks import gpu_probe
from pipelines.checks.gpu_nodes import finding_of

A, B, C, D = (letter * 56 for letter in "abcd")
NODES = [
    {"NodeID": A, "NodeManagerAddress": "10.0.0.1", "Alive": True, "Resources": {"GPU": 2.0}},
    {"NodeID": B, "NodeManagerAddress": "10.0.0.2", "Alive": True, "Resources": {"GPU": 2.0}},
    {"NodeID": C, "NodeManagerAddress": "10.0.0.3", "Alive": True, "Resources": {"CPU": 8.0}},
    {"NodeID": D, "NodeManagerAddress": "10.0.0.4", "Alive": False, "Resources": {"GPU": 2.0}},
]
GOOD = {"names": ["NVIDIA H100 80GB HBM3"] * 2, "torch_cuda": "13.0", "trouble": ""}
GOOD |= {"capability": [9, 0], "nccl": "2.29.7", "gigabytes_per_second": 400.0}


def test_a_good_node_reports_what_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for a driver, two GPUs and NCCL."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 580.65.06\necho 580.65.06\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    (tmp_path / "product_name").write_text("p5.48xlarge\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(gpu_probe, "MACHINE", tmp_path / "product_name")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    reduced: list[int] = []
    stand_ins: dict[str, Any] = {
        "init": lambda: None,
        "device_count": lambda: 2,
        "get_device_name": lambda index: f"NVIDIA H100 number {index}",
        "get_device_capability": lambda index: (9, 0),
        "synchronize": lambda index: None,
    }
    for name, function in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(torch, "ones", lambda elements, device: device)
    monkeypatch.setattr(nccl, "version", lambda: (2, 29, 7))
    monkeypatch.setattr(nccl, "all_reduce", lambda devices: reduced.append(len(devices)))
    found = json.loads(json.dumps(gpu_probe.look(2)))
    assert reduced == [2] * 6
    assert found.pop("gigabytes_per_second") > 0
    assert found == {
        "driver": "580.65.06",
        "machine": "p5.48xlarge",
        "torch_cuda": "13.0",
        "names": ["NVIDIA H100 number 0", "NVIDIA H100 number 1"],
        "capability": [9, 0],
        "nccl": "2.29.7",
        "trouble": "",
    }
    finding = finding_of([{"node": "10.0.0.1", "gpus": 2, **found}], bfloat16=True)
    assert finding.status == "ok"


def test_a_bandwidth_is_counted_as_nccl_tests_do(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 20.0])  # seconds before and after the five rounds
    monkeypatch.setattr(gpu_probe, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    calls: list[int] = []
    rate = gpu_probe.bus_bandwidth(lambda: calls.append(1), 4, 8_000_000_000)
    assert len(calls) == 6
    assert rate == 2 * 3 / 4 * 8 / 2


def test_processes_meet_and_reduce_over_gloo() -> None:
    """What GPUs of several nodes do over NCCL."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    meeting = (2, "127.0.0.1", store.port, 60.0, False)
    other = context.Process(target=gpu_probe.between, args=(1, *meeting))
    other.start()
    rate = gpu_probe.between(0, *meeting)
    other.join(60)
    assert (rate > 0, other.exitcode, dist.is_initialized()) == (True, 0, False)


class OneRay:
    """Ray's functions that the probe calls: a task runs when its value is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, float, tuple[Any, ...]]] = []
        self.util = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")

    def init(self, *args: Any, **kept: Any) -> None: ...

    def nodes(self) -> list[dict[str, Any]]:
        return NODES

    def remote(self, function: Callable[..., Any]) -> Any:
        def options(*, num_gpus: float, num_cpus: float, scheduling_strategy: Any) -> Any:
            def submit(*args: Any, **kept: Any) -> Any:
                where = scheduling_strategy.node_id
                self.asked.append((function.__name__, where, num_gpus, args[:2]))
                return lambda: function(*args, **kept)

            return SimpleNamespace(remote=submit)

        return SimpleNamespace(options=options)

    def wait(self, tasks: list[Any], *, num_returns: int, timeout: float) -> Any:
        return tasks, []

    def get(self, tasks: Any) -> Any:
        return [each() for each in tasks] if isinstance(tasks, list) else tasks()


@pytest.fixture
def one_ray(monkeypatch: pytest.MonkeyPatch) -> OneRay:
    stand_in = OneRay()
    monkeypatch.setattr(gpu_probe, "ray", stand_in)

    def look(gpus: int) -> dict[str, Any]:
        return GOOD

    def between(rank: int, *rest: Any) -> float:
        return 40.0 + rank

    monkeypatch.setattr(gpu_probe, "look", look)
    monkeypatch.setattr(gpu_probe, "between", between)
    return stand_in


def found(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.removeprefix("found "))


def test_every_gpu_of_every_node_takes_part(
    one_ray: OneRay, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_probe.main("10.0.0.1:6379")
    looks = [("look", A, 2, (2,)), ("look", B, 2, (2,))]
    meets = [("between", node, 1, (rank, 4)) for rank, node in enumerate((A, A, B, B))]
    assert one_ray.asked == looks + meets
    said = found(capsys)
    assert [node["node"] for node in said["nodes"]] == ["10.0.0.1", "10.0.0.2"]
    assert said["between"] == {"gigabytes_per_second": 40.0}
    assert finding_of(**said, bfloat16=True).status == "ok"


@pytest.mark.parametrize(("answered", "said"), [(4, "closed port"), (1, "3 of 4 GPUs")])
def test_nodes_that_do_not_meet_are_told_with_the_reason(
    answered: int,
    said: str,
    one_ray: OneRay,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def between(rank: int, *rest: Any) -> float:
        if rank == 3:
            raise RayError("traceback\nclosed port")
        return 40.0

    def some(tasks: Sequence[Any], **kept: Any) -> Any:
        count = answered if len(tasks) == 4 else len(tasks)
        return tasks[:count], tasks[count:]

    monkeypatch.setattr(gpu_probe, "between", between)
    monkeypatch.setattr(one_ray, "wait", some)
    gpu_probe.main("10.0.0.1:6379")
    assert said in found(capsys)["between"]["trouble"]


@pytest.mark.parametrize("cause", ["one node", "in use", "GPUs missing", "no time left"])
def test_nodes_that_cannot_all_take_part_are_not_asked(
    cause: str,
    one_ray: OneRay,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def first_alone(tasks: Sequence[Any], **kept: Any) -> Any:
        return tasks[:1], tasks[1:]

    if cause == "one node":
        monkeypatch.setattr(one_ray, "nodes", lambda: NODES[:1])
    if cause == "in use":
        monkeypatch.setattr(one_ray, "wait", first_alone)
    if cause == "GPUs missing":
        monkeypatch.setitem(GOOD, "names", ["NVIDIA H100 80GB HBM3"])
    if cause == "no time left":
        monkeypatch.setattr(gpu_probe, "SECONDS", 3.0)
    gpu_probe.main("10.0.0.1:6379")
    assert {name for name, *_ in one_ray.asked} == {"look"}
    assert found(capsys)["between"] == {}
