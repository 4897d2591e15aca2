from dataclasses import replace

import pytest
import torch

import vit
from vit import OptimConfig, lr_at

MODEL = vit.ViTConfig(
    image_size=16, patch_size=8, width=16, depth=3, heads=2, mlp_dim=32, num_classes=4, registers=2
)
BASE = OptimConfig(peak_lr=1.0, warmup_steps=10)


def test_warm_up_is_linear_from_zero_to_the_peak():
    config = replace(BASE, schedule="constant")
    assert [lr_at(step, 100, config) for step in (0, 5, 10, 99)] == [0.0, 0.5, 1.0, 1.0]


def test_linear_ends_at_end_lr():
    config = replace(BASE, schedule="linear", end_lr=0.1)
    assert lr_at(10, 110, config) == 1.0
    assert lr_at(60, 110, config) == pytest.approx(0.55)
    assert lr_at(110, 110, config) == pytest.approx(0.1)


def test_cosine_is_half_way_in_the_middle():
    config = replace(BASE, schedule="cosine")
    assert lr_at(60, 110, config) == pytest.approx(0.5)
    assert lr_at(110, 110, config) == pytest.approx(0.0)


def test_rsqrt_halves_after_three_timescales():
    config = replace(BASE, schedule="rsqrt", rsqrt_timescale_steps=100)
    assert lr_at(10 + 300, 1000, config) == pytest.approx(0.5)


def test_cool_down_falls_to_zero_at_the_end():
    config = replace(BASE, schedule="constant", cooldown_steps=20)
    assert lr_at(80, 100, config) == 1.0
    assert lr_at(90, 100, config) == pytest.approx(0.5)


def test_a_schedule_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match=r"warmup_steps 10 .* exceed the 5 steps"):
        lr_at(0, 5, BASE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peak_lr": 0.0}, "peak_lr must be positive, found 0.0"),
        ({"end_lr": 2.0}, "end_lr 2.0 is above peak_lr 1.0"),
        ({"layer_decay": 1.5}, "layer_decay"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative, found -1"),
    ],
)
def test_an_impossible_optimiser_is_refused_with_its_numbers(change, message):
    with pytest.raises(ValueError, match=message):
        replace(BASE, **change)


def test_decay_is_on_kernels_only():
    groups = vit.param_groups(vit.build_model(MODEL), OptimConfig(weight_decay=0.1))
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    assert "blocks.0.attn.qkv.weight" in decayed
    assert "patch_embed.proj.weight" in decayed
    assert "head.weight" in decayed
    spared = {name for group in groups if not group["weight_decay"] for name in group["names"]}
    assert {"cls_token", "pos_embed", "reg_token", "norm.weight", "head.bias"} <= spared
    assert all(name.endswith((".bias", "token", "pos_embed")) or "norm" in name for name in spared)


def test_every_trainable_parameter_is_in_one_group():
    model = vit.build_model(MODEL)
    model.get_parameter("cls_token").requires_grad_(False)
    groups = vit.param_groups(model, OptimConfig(weight_decay=0.1, layer_decay=0.7))
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters() if n != "cls_token")


def test_layer_decay_counts_layers_from_the_head():
    groups = vit.param_groups(vit.build_model(MODEL), OptimConfig(layer_decay=0.5))
    scales = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert scales["head.weight"] == scales["norm.weight"] == 1.0
    assert scales["blocks.2.mlp.fc1.weight"] == 0.5
    assert scales["blocks.0.mlp.fc1.weight"] == 0.125
    assert scales["pos_embed"] == scales["patch_embed.proj.weight"] == 0.0625


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_rate_of_a_group_is_scaled(name):
    config = OptimConfig(name=name, layer_decay=0.5, weight_decay=0.1)
    optimizer = vit.build_optimizer(vit.param_groups(vit.build_model(MODEL), config), config)
    vit.set_lr(optimizer.param_groups, 0.4)
    assert {group["lr"] for group in optimizer.param_groups} == {0.4 * 0.5**i for i in range(5)}


def test_adamw_decays_kernels_apart_from_the_gradient():
    """With a zero gradient a kernel shrinks by lr * weight_decay and a bias stays."""
    config = OptimConfig(peak_lr=0.1, weight_decay=0.5)
    model = vit.build_model(replace(MODEL, head_bias_init=1.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = vit.build_optimizer(vit.param_groups(model, config), config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kernel, bias = model.get_parameter("blocks.0.mlp.fc1.weight"), model.get_parameter("head.bias")
    torch.testing.assert_close(kernel, before["blocks.0.mlp.fc1.weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(bias, before["head.bias"])


def test_the_average_is_the_closed_form_of_its_history():
    average = {"w": torch.tensor(0.0)}
    for value in (1.0, 2.0, 3.0):
        vit.update_average(average, {"w": torch.tensor(value)}, 0.5)
    assert average["w"].item() == pytest.approx(0.125 * 1 + 0.25 * 2 + 0.5 * 3)


def test_an_average_of_other_names_is_refused():
    with pytest.raises(ValueError, match="'v', 'w'"):
        vit.update_average({"w": torch.zeros(1)}, {"v": torch.zeros(1)}, 0.5)
