"""torch.compile, a block at a time: all blocks of a model share a few compiled graphs."""

from importlib import import_module
from typing import Any

from torch import nn

GRAPHS_PER_BLOCK = 4
"""Training and evaluation, each with all tokens and, in the last block, with the first one only."""


def compile_blocks(model: nn.Module, *, backend: str = "inductor") -> None:
    """Compile a model in place, at its first forward pass; names of parameters stay.

    A ViT's blocks are compiled alone: the graphs of one serve all. With stochastic depth each block
    has its own rate, and its own graphs. A BiT is compiled as a whole.

    Args:
        model: on any device.
        backend: of torch.compile. `inductor` needs a C++ compiler.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        model.compile(backend=backend, dynamic=False)
        return
    dynamo: Any = import_module("torch._dynamo.config")  # has no public name
    dynamo.recompile_limit = max(dynamo.recompile_limit, GRAPHS_PER_BLOCK * len(blocks))
    for block in blocks:
        block.compile(backend=backend, fullgraph=True, dynamic=False)
