"""Decide where decoding runs and how many CPUs it needs: pure functions of `ray.nodes()`.

Workers reserve their CPUs and GPUs in one placement group, which Ray places completely or not at
all (`ray.train.v2._internal.execution.worker_group`), before the stream starts: decoding uses the
rest. Its tasks have a label selector that keeps them off the nodes that train.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.errors import BadPlace

ROLE, TRAINS = "role", "train"
"""Label of node groups that train, in aws.yaml, gcp.yaml and kuberay/."""
_ACCELERATOR, _NODE = "ray.io/accelerator-type", "ray.io/node-id"  # Ray sets them itself
_WAITING = 0.05  # share of the time that workers wait; below it data is not the bottleneck
_MOST_WAITING = 0.9  # above it the estimate stays at ten times as many CPUs: measure again then
Node = Mapping[str, Any]


def decoding_selector(
    nodes: Iterable[Node], *, on_gpu_nodes: bool | None, more_to_come: bool
) -> dict[str, str]:
    """Ray's label selector for tasks that read and decode; {} lets them run anywhere.

    The label of a group also works for nodes that are added later; GPU nodes without it are
    excluded by their accelerator type or id. If `on_gpu_nodes` is None, GPU nodes are used only if
    there are no others.

    Raises:
        BadPlace: `on_gpu_nodes` is False, no other node has CPUs and none will be added.
    """
    if on_gpu_nodes:
        return {}
    alive = [node for node in nodes if node["Alive"]]
    if not more_to_come and not any(map(_decodes, alive)):
        if on_gpu_nodes is None:
            return {}
        raise BadPlace(
            f"decode_on_gpu_nodes is false, and none of the {len(alive)} nodes has CPUs and no GPUs"
            " - add one, or set --place.decode-on-gpu-nodes True"
        )
    selector = {ROLE: f"!{TRAINS}"}
    unlabelled = [
        node["Labels"] for node in alive if _gpus(node) and node["Labels"].get(ROLE) != TRAINS
    ]
    for key, found in (
        (_ACCELERATOR, {labels.get(_ACCELERATOR) for labels in unlabelled}),
        (_NODE, {labels[_NODE] for labels in unlabelled if _ACCELERATOR not in labels}),
    ):
        names = sorted(filter(None, found))
        if names:
            selector[key] = f"!in({','.join(names)})"
    return selector


def decoding_cpus(
    nodes: Iterable[Node],
    *,
    on_gpu_nodes: bool | None,
    workers: int,
    worker_cpus: float,
    worker_gpus: int,
) -> float:
    """CPUs that decoding may use now: those of its nodes that are not reserved by workers."""
    alive = [node for node in nodes if node["Alive"]]
    own = [node for node in alive if _decodes(node)]
    anywhere = bool(on_gpu_nodes) or (on_gpu_nodes is None and not own)
    cpus = sum(node["Resources"].get("CPU", 0.0) for node in (alive if anywhere else own))
    held = workers * worker_cpus if anywhere or not worker_gpus else 0.0
    return max(0.0, cpus - held)


def more_cpus(cpus: float, *, wait_fraction: float) -> int:
    """Number of further decoding CPUs that would end the waiting; 0 if workers hardly wait.

    While workers wait, decoding limits them: `cpus` deliver all images that are trained on, and
    without waiting workers would need 1 / (1 - wait_fraction) times as many.
    """
    if wait_fraction < _WAITING:
        return 0
    wanted = cpus / (1 - min(wait_fraction, _MOST_WAITING))
    return math.ceil(wanted - cpus - 1e-6)


def _gpus(node: Node) -> float:
    return node["Resources"].get("GPU", 0.0)


def _decodes(node: Node) -> bool:
    """Whether a node is meant for decoding: it has CPUs, no GPUs and is not in a training group."""
    has_cpus = node["Resources"].get("CPU", 0.0) > 0
    return has_cpus and not _gpus(node) and node["Labels"].get(ROLE) != TRAINS
