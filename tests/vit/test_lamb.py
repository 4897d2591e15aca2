"""LAMB is timm's over steps, and the same where its tensors lie in pieces of vectors."""

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vit
from tests.vit.support.peers import import_timm
from tests.vit.support.two_workers import by_one, by_two
from vit.lamb import Lamb

import_timm()
OPTIMIZERS = import_module("timm.optim")
MODEL = vit.ViTConfig(
    image_size=16, patch_size=8, width=16, depth=2, heads=2, mlp_dim=32, num_classes=4
)
# eps: Adam takes the rounding of gradients that are zero (keys' biases) for gradients
CONFIG = vit.OptimConfig(name="lamb", peak_lr=0.03, weight_decay=0.05, eps=1e-3)


def network() -> nn.Module:
    model = vit.build_model(MODEL, seed=0)
    nn.init.normal_(model.get_parameter("head.weight"), generator=torch.Generator().manual_seed(1))
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> dict[str, Tensor]:
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 3, 16, 16, generator=generator)
        labels = torch.randint(0, 4, (8,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.03 / (step + 1)
        optimizer.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_weights_equal_those_of_timm_over_steps() -> None:
    ours, theirs = network(), network()
    found = train(ours, vit.build_optimizer(vit.param_groups(ours, CONFIG), CONFIG))  # type: ignore[arg-type]
    groups = vit.param_groups(theirs, CONFIG)  # type: ignore[arg-type]  # a model
    given: list[dict[str, Any]] = [
        {"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups
    ]
    optimizer = OPTIMIZERS.Lamb(given, lr=0.03, eps=CONFIG.eps, max_grad_norm=None)
    expected = train(theirs, optimizer)
    start = {name: parameter.detach() for name, parameter in network().named_parameters()}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-5, atol=1e-6, msg=name)
        assert not torch.allclose(value, start[name], atol=1e-3), name


def test_kernels_alone_are_scaled_and_decayed() -> None:
    model = network()
    groups = vit.param_groups(model, CONFIG)  # type: ignore[arg-type]
    by_update = {group["update"]: group for group in groups}
    assert by_update.keys() == {"trust", "plain"}
    assert all(name.endswith(".weight") for name in by_update["trust"]["names"])
    assert "blocks.0.attn.qkv.weight" in by_update["trust"]["names"]
    assert {"cls_token", "pos_embed", "norm.weight"} <= set(by_update["plain"]["names"])
    assert (by_update["trust"]["weight_decay"], by_update["plain"]["weight_decay"]) == (0.05, 0.0)


def test_a_kernel_of_zeros_gets_adams_step() -> None:
    """Scaled to a norm of zero, its step would be zero, and it could never change."""
    weight = nn.Parameter(torch.zeros(2, 3))
    group = {"params": [weight], "weight_decay": 0.0, "update": "trust"}
    optimizer = Lamb([group], lr=0.1, betas=(0.9, 0.999), eps=1e-8)
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 3), -0.1))


@pytest.mark.parametrize("cut", [1, 7, 12, 19])
def test_a_tensor_cut_between_workers_changes_as_a_whole(cut: int) -> None:
    """Two tensors of 12 and 8 numbers lie behind each other, and one of two workers has `cut`."""

    def make(tensors: list[nn.Parameter]) -> Lamb:
        group = {"params": tensors, "weight_decay": 0.1, "update": "trust"}
        return Lamb([group], lr=0.1, betas=(0.9, 0.999), eps=1e-8)

    values, *gradients = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    given = (make, [(3, 4), (8,)], values, torch.stack(gradients))
    torch.testing.assert_close(by_two(*given, cut=cut), by_one(*given))


def test_it_is_made_by_its_name_and_keeps_two_moments() -> None:
    model = network()
    optimizer = vit.build_optimizer(vit.param_groups(model, CONFIG), CONFIG, fused=True)  # type: ignore[arg-type]
    assert isinstance(optimizer, Lamb)
    assert optimizer.moments(optimizer.param_groups[0]) == ("exp_avg", "exp_avg_sq")
