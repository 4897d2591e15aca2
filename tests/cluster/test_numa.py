"""A worker stays on the CPUs beside its GPU: a sysfs of our own, real threads."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cluster import numa

ADDRESS = "0000:dc:00.0"


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the machine says which CPUs are beside the device."""
    monkeypatch.setattr(numa, "SYSFS", tmp_path)
    (tmp_path / ADDRESS).mkdir()
    return tmp_path / ADDRESS / "local_cpulist"


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8-9\n", {0, 1, 2, 3, 8, 9}), ("5\n", {5}), ("\n", set())],
)
def test_the_kernels_list_is_read(sysfs: Path, text: str, cpus: set[int]) -> None:
    sysfs.write_text(text)
    assert numa.cpus_beside(ADDRESS) == cpus


def test_a_device_that_says_nothing_binds_nothing(sysfs: Path) -> None:
    assert numa.cpus_beside(ADDRESS) == set()
    assert numa.cpus_beside("0000:00:00.0") == set()


@pytest.mark.parametrize(
    ("allowed", "beside", "threads", "bound"),
    [
        (range(16), "0-7", 1, {*range(8)}),
        (range(4, 16), "0-7", 4, {4, 5, 6, 7}),  # a container has some of each
        (range(16), "0-15", 1, None),  # one socket
        (range(8, 16), "0-7", 1, None),  # a container has none of them
        (range(5, 16), "0-7", 1, None),  # or too few
        (range(16), "0-7", 12, None),  # too few for its arithmetic
    ],
)
def test_a_worker_is_bound_to_what_it_may_use_of_them(
    sysfs: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: range,
    beside: str,
    threads: int,
    bound: set[int] | None,
) -> None:
    card = SimpleNamespace(pci_domain_id=0, pci_bus_id=0xDC, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {*allowed})
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    given: list[set[int]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cpus: given.append(cpus))
    sysfs.write_text(beside)
    numa.stay_beside(torch.device("cuda", 0))
    assert given == ([bound] * len(os.listdir("/proc/self/task")) if bound else [])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_all_threads_of_a_process_are_bound(sysfs: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    sysfs.write_text(f"{cpu}")
    program = (
        "import json, os, threading; from pathlib import Path; from types import SimpleNamespace\n"
        "import torch; from cluster import numa\n"
        f"numa.SYSFS, numa.LEAST = Path({str(sysfs.parents[1])!r}), 1\n"
        "torch.set_num_threads(1)\n"
        "card = SimpleNamespace(pci_domain_id=0, pci_bus_id=0xdc, pci_device_id=0)\n"
        "torch.cuda.get_device_properties = lambda device: card\n"
        "go = threading.Event(); threading.Thread(target=go.wait, daemon=True).start()\n"
        "numa.stay_beside(torch.device('cuda', 0))\n"
        "threading.Thread(target=go.wait, daemon=True).start()\n"
        "threads = os.listdir('/proc/self/task')\n"
        "print(json.dumps([sorted(os.sched_getaffinity(int(each))) for each in threads]))\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    threads = json.loads(said.stdout)
    assert len(threads) >= 3
    assert threads == [[cpu]] * len(threads)
