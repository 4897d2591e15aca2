"""The model of a worker that computes: its arithmetic."""

from collections.abc import Callable

import pytest
import torch

from pipelines.inference.network import Network
from vit import ViTConfig, build_model

TINY = ViTConfig(image_size=8, patch_size=4, width=16, depth=1, heads=2, mlp_dim=16, num_classes=2)


def test_a_network_in_float32_rounds_nothing(
    may_round: Callable[[], tuple[bool, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # for the whole process
    weights = {name: each.numpy() for name, each in build_model(TINY).state_dict().items()}
    Network(TINY, weights, "float32", device="cpu")
    assert may_round() == (False, False)
