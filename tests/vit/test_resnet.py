from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vit
from tests.vit.support.peers import images_for, random_model
from vit.resnet import StdConv, pad_same

SMALL = vit.BiTConfig(blocks=(1, 1), image_size=32, num_classes=5)
HYBRID = vit.ViTConfig(
    image_size=32,
    patch_size=1,
    stem_blocks=(1, 1),
    width=48,
    depth=1,
    heads=3,
    mlp_dim=64,
    num_classes=5,
)


@pytest.mark.parametrize("same", [True, False])
def test_a_convolution_does_not_see_mean_and_scale_of_its_weights(same):
    conv = StdConv(3, 8, 3, same=same)
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(conv.weight, generator=torch.Generator().manual_seed(1))
    before = conv(images)
    conv.weight.data.mul_(7).add_(3)
    torch.testing.assert_close(conv(images), before, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "pads"),
    [
        (32, 7, 2, (2, 3)),
        (33, 7, 2, (3, 3)),
        (16, 3, 2, (0, 1)),
        (16, 3, 1, (1, 1)),
        (8, 1, 2, (0, 0)),
    ],
)
def test_same_padding_is_tensorflows(side, kernel, stride, pads):
    padded = pad_same(torch.ones(1, 1, side, side), kernel, stride)
    expected = F.pad(torch.ones(1, 1, side, side), (*pads, *pads))
    assert torch.equal(padded, expected)


def test_a_hybrids_bottleneck_starts_as_its_shortcut():
    model = vit.build_model(HYBRID)
    weights = model.state_dict()
    assert weights["patch_embed.backbone.stages.0.blocks.0.norm3.weight"].abs().max() == 0
    assert weights["patch_embed.backbone.stages.0.blocks.0.norm2.weight"].min() == 1


def test_a_resnet_takes_images_of_any_size():
    model = vit.build_model(SMALL)
    assert model(torch.zeros(2, 3, 33, 50)).shape == (2, 5)
    assert model.forward_features(torch.zeros(1, 3, 64, 32)).shape == (1, 512, 8, 4)


@pytest.mark.parametrize("config", [SMALL, HYBRID], ids=["bit", "hybrid"])
def test_checkpointing_changes_no_gradient(config):
    model = random_model(config)
    gradients = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(images_for(config)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


DROPPING = replace(HYBRID, dropout=0.1, drop_path=0.1)


@pytest.mark.parametrize("config", [SMALL, DROPPING], ids=["bit", "vit"])
def test_checkpointing_keeps_no_random_state(config, monkeypatch):
    """To read and restore it takes the host time at each stage or block; nothing there draws."""
    model = random_model(config).train()
    model.set_grad_checkpointing()
    keys = {} if config is SMALL else {"keys": torch.arange(2)}
    before = torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_rng_state", lambda: pytest.fail("the random state was read"))
        model(images_for(config, 2), **keys).square().sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("config", [SMALL, HYBRID], ids=["bit", "hybrid"])
def test_the_forward_compiles_without_graph_breaks(config):
    torch.compiler.reset()
    explained = torch._dynamo.explain(random_model(config))(images_for(config))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_layers_of_a_resnet_are_its_bottlenecks():
    model = vit.build_model(replace(SMALL, blocks=(2, 1)), device="meta")
    assert model.num_layers == 5
    assert model.layer_of("stem.conv.weight") == 0
    assert model.layer_of("stages.0.blocks.1.conv1.weight") == 2
    assert model.layer_of("stages.1.blocks.0.norm1.bias") == 3
    assert model.layer_of("head.fc.weight") == model.layer_of("norm.bias") == 4
    scales = {g["lr_scale"] for g in vit.param_groups(model, vit.OptimConfig(layer_decay=0.5))}
    assert scales == {1.0, 0.5, 0.25, 0.125, 0.0625}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 36}, "image_size 36 is not a multiple of patch_size 1 times the stem's 8"),
        ({"stem_blocks": (1, 0)}, r"stem_blocks \(1, 0\)"),
    ],
)
def test_an_impossible_hybrid_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(HYBRID, **change)


def test_a_resnet_without_blocks_is_refused():
    with pytest.raises(ValueError, match=r"blocks must .*found \(\)"):
        vit.BiTConfig(blocks=())
