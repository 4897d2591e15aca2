"""Judge measured all-reduces between GPUs by what `pipelines/plan.py` assumes of such nodes."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.planning.hardware import NODE_KINDS, NodeKind

NodeReport = Mapping[str, Any]
"""node (address), gpus (as Ray counts them); if it answered: driver (if nvidia-smi ran), machine
(if the firmware says), torch_cuda, names, capability, nccl, gigabytes_per_second, trouble (empty:
none)."""
BetweenReport = Mapping[str, Any]
"""Of an all-reduce over all GPUs of several nodes: gigabytes_per_second or trouble; empty if it
was not tried."""
LEAST = 0.5
"""Fraction of the assumed bandwidth below which the plan is too far from the truth."""
GOOGLE = "Google Compute Engine"
# In a GPU's name, the kind of node that has it at AWS, and at Google Cloud.
_CARDS = (
    ("A100", "p4d", "a2-highgpu-8g"),
    ("H100", "p5", "a3-highgpu-8g"),
    ("H200", "p5e", ""),
    ("L40S", "g6e", ""),
    ("A10G", "g5", ""),
)


def slow_link(node: NodeReport) -> str:
    """Say that the GPUs of a node talk slower than planned; empty if they do not."""
    rate, kind = node.get("gigabytes_per_second"), _cloud_kind(node) or _card_kind(node)
    if not rate or kind is None or rate >= LEAST * kind.link_gigabytes:
        return ""
    return (
        f"{node['node']}: all-reduce between its {node['names'][0]} at {rate:.3g} GB/s, the plan"
        f" assumes {kind.link_gigabytes:g} - look at nvidia-smi topo -m, or plan with"
        f" --cluster.link-gigabytes {rate:.3g}"
    )


def slow_network(nodes: Sequence[NodeReport], between: BetweenReport) -> str:
    """Say that GPUs of different nodes talk slower than planned, or not; empty if all is well.

    Only on nodes whose network is known: EC2 and Google Cloud tell what they are.
    """
    if between.get("trouble"):
        return (
            f"no all-reduce between {len(nodes)} nodes: {between['trouble']} - open all traffic"
            " between them; if they had just started, try again"
        )
    rate, kinds = between.get("gigabytes_per_second"), [_cloud_kind(node) for node in nodes]
    assumed = min((kind.network_gigabytes for kind in kinds if kind is not None), default=0.0)
    if not rate or rate >= LEAST * assumed:
        return ""
    return (
        f"all-reduce between {len(nodes)} nodes at {rate:.3g} GB/s, the plan assumes {assumed:g} -"
        f" look for EFA or gVNIC in NCCL's log (NCCL_DEBUG=INFO), or plan with"
        f" --cluster.network-gigabytes {rate:.3g}"
    )


def _cloud_kind(node: NodeReport) -> NodeKind | None:
    """The kind that the machine says it is: p4d.24xlarge at AWS; at Google's, the card decides."""
    machine = node.get("machine", "")
    if machine == GOOGLE:
        names = [google for card, _, google in _CARDS if card in node["names"][0]]
        return NODE_KINDS.get(names[0]) if names else None
    return NODE_KINDS.get(machine.partition(".")[0])


def _card_kind(node: NodeReport) -> NodeKind | None:
    names = [aws for card, aws, _ in _CARDS if card in node["names"][0]]
    return NODE_KINDS[names[0]] if names else None
