"""Blocks are captured whole, and few graphs serve them all. Lowering them needs a compiler."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

import vit
from vit.compiled import GRAPHS_PER_BLOCK, compile_blocks

CONFIG = vit.ViTConfig(
    image_size=8, patch_size=4, width=16, depth=3, heads=2, mlp_dim=32, num_classes=4
)


@pytest.mark.parametrize(
    ("config", "recompute", "graphs"),
    [
        (replace(CONFIG, dropout=0.1), False, GRAPHS_PER_BLOCK),
        (CONFIG, True, GRAPHS_PER_BLOCK),
        (replace(CONFIG, drop_path=0.1, depth=6), False, GRAPHS_PER_BLOCK * 6),
    ],
    ids=["dropout", "recomputed", "drop path"],
)
def test_compiled_blocks_compute_the_same_with_few_graphs(
    config: vit.ViTConfig, recompute: bool, graphs: int
) -> None:
    torch._dynamo.reset()
    counters.clear()
    plain, compiled = vit.build_model(config), vit.build_model(config)
    compile_blocks(compiled, backend="eager")
    images, keys = torch.randn(4, 3, 8, 8), torch.arange(4)
    for model in (plain, compiled):
        model.set_grad_checkpointing(recompute)
        for _ in range(2):
            model(images, keys).square().sum().backward()
    for (name, ours), theirs in zip(compiled.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None, name
        assert torch.equal(ours.grad, theirs.grad), name
    with torch.no_grad():
        assert torch.equal(compiled.eval()(images), plain.eval()(images))
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= graphs
    assert compiled.state_dict().keys() == plain.state_dict().keys()
