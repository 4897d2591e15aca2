"""Look at the nodes with GPUs of a Ray cluster: run as a script with Ray's address.

It is a process of its own, because a driver that a cluster does not accept cannot be abandoned. The
tasks are sent by value, so that the nodes need torch and nothing of this project. It prints a JSON
object with nodes and between, see `gpu_speed.NodeReport` and `gpu_speed.BetweenReport`.
"""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SECONDS = 25.0
"""How long all of it may take. GPUs that train are not free, so a node may not answer."""
LOOK_SECONDS = 20.0
LEAST_SECONDS = 12.0
"""An all-reduce between nodes is not tried with less time left: its processes have to start."""
MACHINE = Path("/sys/class/dmi/id/product_name")
_BYTES = 1 << 28
_ROUNDS = 5


def look(gpus: int) -> dict[str, Any]:
    """What a node's GPUs are: names, driver, CUDA; bandwidth of an all-reduce between them."""
    import torch
    from torch.cuda import nccl

    found: dict[str, Any] = {"torch_cuda": torch.version.cuda, "names": [], "trouble": ""}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        found["driver"] = said.stdout.split()[0]
    with suppress(OSError):
        found["machine"] = MACHINE.read_text().strip()
    try:
        torch.cuda.init()
        found["names"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["capability"] = torch.cuda.get_device_capability(0)
        if gpus > 1:
            found["nccl"] = ".".join(map(str, nccl.version()))
            found["gigabytes_per_second"] = within(gpus)
    except (RuntimeError, AssertionError) as error:
        found["trouble"] = " ".join(str(error).split())
    return found


def within(gpus: int) -> float:
    """Bandwidth of an all-reduce between the GPUs of this node, in this process."""
    import torch
    from torch.cuda import nccl

    tensors = [torch.ones(_BYTES // 4, device=f"cuda:{i}") for i in range(gpus)]

    def all_reduce() -> None:
        nccl.all_reduce(tensors)
        for i in range(gpus):
            torch.cuda.synchronize(i)

    return bus_bandwidth(all_reduce, gpus, _BYTES)


def between(
    rank: int, ranks: int, host: str, port: int, seconds: float, on_gpus: bool = True
) -> float:
    """Bandwidth of an all-reduce between processes of one GPU each, which meet at host and port."""
    import torch
    import torch.distributed as dist
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  # public

    size, wait = _BYTES if on_gpus else _BYTES >> 8, timedelta(seconds=seconds)
    store = TCPStore(host, port, is_master=False, timeout=wait)
    backend, device = ("nccl", "cuda:0") if on_gpus else ("gloo", "cpu")
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=wait)
    tensor = torch.ones(size // 4, device=device)

    def all_reduce() -> None:
        dist.all_reduce(tensor)
        if on_gpus:
            torch.cuda.synchronize()

    try:
        return bus_bandwidth(all_reduce, ranks, size)
    finally:
        dist.destroy_process_group()


def bus_bandwidth(all_reduce: Callable[[], None], ranks: int, size: int) -> float:
    """GB/s of an all-reduce of `size` bytes, as nccl-tests count them (busbw)."""
    all_reduce()  # makes the connections
    began = time.perf_counter()
    for _ in range(_ROUNDS):
        all_reduce()
    seconds = (time.perf_counter() - began) / _ROUNDS
    return 2 * (ranks - 1) / ranks * size / seconds / 1e9


def main(address: str) -> None:
    """Look at every node that has GPUs, try an all-reduce over all, and print what was found."""
    end = time.monotonic() + SECONDS
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    nodes = look_at(alive)
    found: dict[str, Any] = {"nodes": nodes, "between": {}}
    left = end - time.monotonic()
    usable = all(len(node.get("names", ())) == node["gpus"] for node in nodes)
    if len(nodes) > 1 and usable and left > LEAST_SECONDS:
        places = [node["NodeID"] for node in alive for _ in range(int(node["Resources"]["GPU"]))]
        found["between"] = meet(places, seconds=left)
    print("found " + json.dumps(found))


def look_at(alive: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each node says; one that is in use only has its address and number of GPUs."""
    nodes: list[dict[str, Any]] = []
    tasks = {}
    for node in alive:
        gpus = int(node["Resources"]["GPU"])
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        # "GPU" of all: a task that gets only some of them could not measure the others.
        task = ray.remote(look).options(num_gpus=gpus, num_cpus=0, scheduling_strategy=where)
        nodes.append({"node": node["NodeManagerAddress"], "gpus": gpus})
        tasks[task.remote(gpus)] = nodes[-1]
    done, _ = ray.wait([*tasks], num_returns=len(tasks), timeout=LOOK_SECONDS) if tasks else ([], 0)
    for task in done:
        try:
            tasks[task] |= ray.get(task)
        except RayError as error:
            tasks[task]["trouble"] = _reason(error)
    return nodes


def meet(places: Sequence[str], *, seconds: float) -> dict[str, Any]:
    """Measure an all-reduce over a GPU for each place, which names a node; all have to be free."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  # public

    host = ray.util.get_node_ip_address()
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    tasks = []
    for rank, node in enumerate(places):
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        task = ray.remote(between).options(num_gpus=1, num_cpus=0, scheduling_strategy=where)
        tasks.append(task.remote(rank, len(places), host, store.port, seconds))
    done, waiting = ray.wait(tasks, num_returns=len(tasks), timeout=seconds)
    try:
        rates = ray.get(done)
    except RayError as error:
        return {"trouble": _reason(error)}
    if waiting:
        late = f"{len(waiting)} of {len(tasks)} GPUs did not answer in {seconds:.0f} s"
        return {"trouble": late}
    return {"gigabytes_per_second": min(rates)}


def _reason(error: RayError) -> str:
    return str(error).strip().splitlines()[-1]


if __name__ == "__main__":
    main(sys.argv[1])
