"""Where decoding runs, and how much of it the training wants - pure decisions over `ray.nodes()`.

Workers hold their CPUs and GPUs in one placement group, which Ray places as a whole or not at all
(`ray.train.v2._internal.execution.worker_group`), before the stream starts: decoding gets what is
left. Its tasks carry a label selector that keeps them off the nodes that train.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.errors import BadPlace

ROLE, TRAINS = "role", "train"
"""The label of node groups that train, in aws.yaml, gcp.yaml and kuberay/."""
_ACCELERATOR, _NODE = "ray.io/accelerator-type", "ray.io/node-id"  # Ray sets them itself
_WAITING = 0.05  # of the time; below it data is no bottleneck
_MOST_WAITING = 0.9  # beyond it the figure says nothing but: ten times as many, look again
Node = Mapping[str, Any]


def decoding_selector(
    nodes: Iterable[Node], *, on_gpu_nodes: bool | None, more_to_come: bool
) -> dict[str, str]:
    """Ray's label selector for tasks that read and decode; {} lets them run anywhere.

    A group's label works for nodes that are still to come, too; GPU nodes without it are left out
    by what Ray knows of them. With `on_gpu_nodes` None they are used where nothing else is.

    Raises:
        BadPlace: `on_gpu_nodes` is False and no other node has a CPU, nor will.
    """
    if on_gpu_nodes:
        return {}
    alive = [node for node in nodes if node["Alive"]]
    if not more_to_come and not any(map(_decodes, alive)):
        if on_gpu_nodes is None:
            return {}
        raise BadPlace(
            f"decode_on_gpu_nodes is false, and none of the {len(alive)} nodes is a CPU node with"
            " CPUs - add one, or set --place.decode-on-gpu-nodes True"
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
    """CPUs that decoding may use now: those of its nodes that no worker holds."""
    alive = [node for node in nodes if node["Alive"]]
    own = [node for node in alive if _decodes(node)]
    anywhere = bool(on_gpu_nodes) or (on_gpu_nodes is None and not own)
    cpus = sum(node["Resources"].get("CPU", 0.0) for node in (alive if anywhere else own))
    held = workers * worker_cpus if anywhere or not worker_gpus else 0.0
    return max(0.0, cpus - held)


def more_cpus(cpus: float, *, wait_fraction: float) -> int:
    """How many more decoding CPUs would end the waiting; 0 where there is next to none.

    While workers wait, decoding is what limits them: `cpus` deliver what is trained, and workers
    that did not wait would take 1 / (1 - wait_fraction) of it.
    """
    if wait_fraction < _WAITING:
        return 0
    wanted = cpus / (1 - min(wait_fraction, _MOST_WAITING))
    return math.ceil(wanted - cpus - 1e-6)


def _gpus(node: Node) -> float:
    return node["Resources"].get("GPU", 0.0)


def _decodes(node: Node) -> bool:
    """Whether it is a node for decoding: CPUs, no GPUs, not of a group that trains."""
    has_cpus = node["Resources"].get("CPU", 0.0) > 0
    return has_cpus and not _gpus(node) and node["Labels"].get(ROLE) != TRAINS
