"""torch.compile, a block at a time: all blocks of a model share a few compiled graphs."""

import torch
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
    limit = GRAPHS_PER_BLOCK * len(blocks)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, limit)
    for block in blocks:
        block.compile(backend=backend, fullgraph=True, dynamic=False)
