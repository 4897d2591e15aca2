"""The last layer and the first: logits in float32, patches by a matrix product."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import vit
from tests.vit.support.peers import images_for, random_model

SMALL = vit.ViTConfig(
    image_size=32, patch_size=8, width=64, depth=2, heads=2, mlp_dim=128, num_classes=4000
)


@pytest.mark.parametrize(
    "config",
    [SMALL, replace(SMALL, pool="map"), vit.BiTConfig(blocks=(1,), image_size=32, num_classes=400)],
    ids=["token", "map", "bit"],
)
def test_logits_of_a_bfloat16_model_are_float32(config):
    model = random_model(config).eval().bfloat16()
    name = "head.bias" if isinstance(model, vit.ViT) else "head.fc.bias"
    torch.nn.init.constant_(dict(model.named_parameters())[name], -10.0)
    logits = model(images_for(config).bfloat16())
    assert logits.dtype == torch.float32
    # in bfloat16 fewer than 20 values are left around -10
    assert logits[0].unique().numel() > 0.9 * config.num_classes


def test_logits_stay_float32_under_autocast():
    model = random_model(SMALL).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(images_for(SMALL)).dtype == torch.float32


def test_a_float64_model_keeps_its_precision():
    model = random_model(SMALL).eval().double()
    assert model(images_for(SMALL).double()).dtype == torch.float64


@pytest.mark.parametrize(("patch", "size"), [(16, (224, 224)), (14, (56, 84))])
def test_patches_are_the_convolutions_and_closer_to_float64(patch, size):
    config = replace(SMALL, patch_size=patch, image_size=size, width=96)
    model = random_model(config)
    assert isinstance(model, vit.ViT)
    projection = model.patch_embed.proj
    assert projection.bias is not None
    images = images_for(config)
    kernel, bias = projection.weight.detach(), projection.bias.detach()
    convolved = F.conv2d(images, kernel, bias, stride=patch)
    exact = F.conv2d(images.double(), kernel.double(), bias.double(), stride=patch)
    found, convolved, exact = (
        tokens.detach().flatten(2).transpose(1, 2) if tokens.ndim == 4 else tokens.detach()
        for tokens in (projection(images), convolved, exact)
    )
    assert (found - convolved).abs().max() < 1e-6 * (1 + exact.abs().max())
    assert (found - exact).abs().max() <= max(1e-6, (convolved - exact).abs().max())


def test_no_convolution_computes_the_patches(monkeypatch: pytest.MonkeyPatch):
    model, images = random_model(SMALL), images_for(SMALL)
    monkeypatch.delattr(F, "conv2d")
    model(images)


def test_the_first_layer_keeps_its_names_and_shapes():
    state = random_model(SMALL).state_dict()
    assert state["patch_embed.proj.weight"].shape == (64, 3, 8, 8)
    assert state["patch_embed.proj.bias"].shape == (64,)
