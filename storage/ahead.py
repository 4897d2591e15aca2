"""Limits of a stream: what it may do before anybody needs it, and on which nodes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import ray


class Ahead(NamedTuple):
    """How much a stream may do before its consumers need it."""

    block_bytes: int
    """Size of a block."""
    consumers: int = 1
    """Ranks or actors that take blocks in turn."""
    each: int = 16
    """Blocks that may wait for each of them; more where more tasks run at once."""
    share: float = 1.0
    """Of the nodes' CPUs and object stores; other streams have the rest."""


def capacity(selector: Mapping[str, str] | None) -> tuple[float, float]:
    """CPUs and bytes of object store of the nodes that match a label selector, now.

    Ray Data's own figure is what it reserved for one stream: a part, in whole CPUs of each node.
    """
    nodes: Any = ray.nodes()
    rules = (selector or {}).items()
    have = [
        node["Resources"]
        for node in nodes
        if node["Alive"] and all(_matches(node["Labels"], *rule) for rule in rules)
    ]
    cpus = sum(each.get("CPU", 0.0) for each in have)
    return cpus, sum(each.get("object_store_memory", 0.0) for each in have)


def _matches(labels: Mapping[str, str], key: str, rule: str) -> bool:
    """Whether labels agree with `value`, `!value`, `in(value,...)` or `!in(value,...)`."""
    wanted = rule.removeprefix("!").removeprefix("in(").removesuffix(")").split(",")
    return (labels.get(key) in wanted) != rule.startswith("!")
