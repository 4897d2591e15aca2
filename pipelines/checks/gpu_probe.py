"""Look at the nodes with GPUs of a Ray cluster: run as a script with Ray's address.

It is a process of its own, because a driver that a cluster does not accept cannot be abandoned. The
task is sent by value, so that the nodes need torch and nothing of this project. It prints one JSON
list with an object per node, see `gpu_nodes.NodeReport`.
"""

import json
import logging
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SECONDS = 20.0
"""How long the nodes are waited for. GPUs that train are not free, so a node may not answer."""
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
    try:
        torch.cuda.init()
        found["names"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["capability"] = torch.cuda.get_device_capability(0)
        if gpus > 1:
            found["nccl"] = ".".join(map(str, nccl.version()))
            found["gigabytes_per_second"] = all_reduce_bandwidth(gpus)
    except (RuntimeError, AssertionError) as error:
        found["trouble"] = " ".join(str(error).split())
    return found


def all_reduce_bandwidth(gpus: int) -> float:
    """Bus bandwidth of an all-reduce of 256 MiB in GB/s, as nccl-tests count it."""
    import torch
    from torch.cuda import nccl

    tensors = [torch.ones(_BYTES // 4, device=f"cuda:{i}") for i in range(gpus)]
    began = 0.0
    for turn in range(_ROUNDS + 1):
        if turn == 1:  # the first makes the communicators
            began = time.perf_counter()
        nccl.all_reduce(tensors)
        for i in range(gpus):
            torch.cuda.synchronize(i)
    seconds = (time.perf_counter() - began) / _ROUNDS
    return 2 * (gpus - 1) / gpus * _BYTES / seconds / 1e9


def main(address: str) -> None:
    """Look at every node that has GPUs, and print what was found."""
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    tasks = {}
    for node in nodes:
        gpus = int(node["Resources"]["GPU"])
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        # "GPU" of all: a task that gets only some of them could not measure the others.
        task = ray.remote(look).options(num_gpus=gpus, num_cpus=0, scheduling_strategy=where)
        tasks[task.remote(gpus)] = {"node": node["NodeManagerAddress"], "gpus": gpus}
    done, _ = ray.wait([*tasks], num_returns=len(tasks), timeout=SECONDS) if tasks else ([], [])
    for task in done:
        try:
            tasks[task] |= ray.get(task)
        except RayError as error:
            tasks[task]["trouble"] = str(error).strip().splitlines()[-1]
    print("nodes " + json.dumps([*tasks.values()]))


if __name__ == "__main__":
    main(sys.argv[1])
