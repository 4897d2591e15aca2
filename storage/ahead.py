"""Limits of a stream: what it may do before anybody needs it."""

from typing import NamedTuple


class Ahead(NamedTuple):
    """How much a stream may do before its consumers need it."""

    blocks: int
    """Most that wait for the consumers."""
    block_bytes: int
    """Size of one: half of the cluster's object stores holds all."""
    consumers: int = 1
    """Ranks, each of which gets a block in turn."""
    share: float = 1.0
    """Of the cluster's CPUs and object stores, where other streams have the rest."""
