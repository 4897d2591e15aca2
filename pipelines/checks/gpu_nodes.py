"""Check the nodes with GPUs of the cluster of RAY_ADDRESS: driver, CUDA, all-reduce."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster.engine import LEAST_DRIVER
from cluster.errors import BadPlace
from pipelines.checks.finding import Finding, fail, ok, warn
from pipelines.checks.gpu_speed import BetweenReport, NodeReport, slow_link, slow_network
from pipelines.checks.ray_cluster import run_driver
from pipelines.cli.options import Command
from pipelines.cli.ray_address import LOCAL, read_address, variables_of_head

NAME = "GPU nodes"
PROBE = Path(__file__).parent / "gpu_probe.py"
SECONDS = 35.0


def check_gpu_nodes(command: Command) -> Finding:
    """Run a task on every node with GPUs, if workers may use them."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if not address or address.startswith(("http://", "https://")):
        return ok(NAME, "not looked at: RAY_ADDRESS names no cluster that tasks can be sent to")
    if command.place.workers.gpus == 0:
        return ok(NAME, "not looked at: workers.gpus is 0")
    try:
        address = read_address()
        if address == LOCAL:
            return ok(NAME, "not looked at: Ray runs on this machine")
        variables = variables_of_head(address)
    except BadPlace as error:
        return fail(NAME, str(error))
    try:
        done = run_driver(str(PROBE), address, variables=variables, seconds=SECONDS)
    except subprocess.TimeoutExpired:
        return warn(NAME, f"{address} did not answer within {SECONDS:g} s - see the Ray check")
    lines = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    if not lines:
        return warn(NAME, "could not be looked at - see the Ray check")
    bfloat16 = any(stage.precision == "bfloat16" for stage in command.stages)
    return finding_of(**json.loads(lines[0].removeprefix("found ")), bfloat16=bfloat16)


def finding_of(
    nodes: Sequence[NodeReport], between: BetweenReport | None = None, *, bfloat16: bool
) -> Finding:
    """Judge what the nodes said.

    Args:
        nodes: an object per node.
        between: of an all-reduce over all of them.
        bfloat16: a stage needs GPUs with bfloat16.
    """
    if not nodes:
        return ok(NAME, "the cluster has none now")
    answers = [node for node in nodes if "names" in node or node.get("trouble")]
    for node in answers:
        reason = _trouble(node, bfloat16=bfloat16)
        if reason:
            return fail(NAME, f"{node['node']}: {reason}")
    if not answers:
        return warn(NAME, f"{len(nodes)} nodes, all GPUs are in use: none was looked at")
    slow = [slow_link(node) for node in answers] + [slow_network(nodes, between or {})]
    for reason in filter(None, slow):
        return warn(NAME, reason)
    kinds = sorted({_kind(node) for node in answers})
    rate = (between or {}).get("gigabytes_per_second")
    network = f"; between nodes {rate:.3g} GB/s" if rate else ""
    busy = len(nodes) - len(answers)
    more = f"; {busy} more are in use and were not looked at" if busy else ""
    return ok(NAME, f"{len(answers)} nodes: {'; '.join(kinds)}{network}{more}")


def _trouble(node: NodeReport, *, bfloat16: bool) -> str:
    driver = node.get("driver")
    if driver and int(driver.partition(".")[0]) < LEAST_DRIVER:
        return (
            f"driver {driver} is too old for CUDA {node.get('torch_cuda')} of its torch - install"
            f" {LEAST_DRIVER} or newer"
        )
    if node["trouble"]:
        hint = "" if driver else " (and nvidia-smi does not run: does the container see the GPUs?)"
        return f"torch cannot use its {node['gpus']} GPUs: {node['trouble']}{hint}"
    if len(node["names"]) < node["gpus"]:
        return f"Ray counts {node['gpus']} GPUs, torch {len(node['names'])}"
    if bfloat16 and node["capability"][0] < 8:
        return f"{node['names'][0]} has no bfloat16 - set --stage.precision float32"
    return ""


def _kind(node: NodeReport) -> str:
    rate = node.get("gigabytes_per_second")
    speed = f", all-reduce {rate:.0f} GB/s (NCCL {node['nccl']})" if rate else ""
    driver, cuda = node.get("driver", "unknown"), node["torch_cuda"]
    return f"{node['gpus']} x {node['names'][0]}, driver {driver}, CUDA {cuda}{speed}"
