"""benchmarks.model: each size names the same network in each library."""

import statistics
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import vit
from benchmarks.model import BATCHES, MODELS, SIZES, TIMM, config_of, quartiles


def test_the_tables_have_the_same_sizes() -> None:
    assert SIZES.keys() == TIMM.keys() == BATCHES.keys() == {"ti", "s", "b", "l", "h"}


@pytest.mark.skipif(
    any(find_spec(package) is None for package, _ in MODELS.values()),
    reason="timm or transformers is not installed",
)
@pytest.mark.parametrize("size", SIZES)
def test_each_library_builds_the_same_network(size: str) -> None:
    """On the meta device, so that H takes no memory; `measure` feeds 224 px."""
    ours = vit.build_model(config_of(size), device="meta")
    with torch.device("meta"):
        peers = {name: make(size) for name, (_, make) in MODELS.items() if name != "vit"}
    images = torch.empty(BATCHES[size], 3, 224, 224, device="meta")
    for name, model in {"vit": ours, **peers}.items():
        assert parameters(model) == parameters(ours), name
        assert model(images).shape == (BATCHES[size], 1000), name


def parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def test_one_round_has_quartiles() -> None:
    assert quartiles([1.5]) == [1.5, 1.5, 1.5]
    assert quartiles([1.0, 2.0, 4.0]) == statistics.quantiles([1.0, 2.0, 4.0], n=4)
