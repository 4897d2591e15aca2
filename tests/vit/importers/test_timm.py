"""The same weights in timm and here give the same logits and gradients, and files cross over."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

import vit
from tests.vit.support.peers import images_for, import_timm, random_model, randomize

if find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)
timm = import_timm()

TINY = vit.ViTConfig(
    image_size=32, patch_size=8, width=48, depth=2, heads=3, mlp_dim=96, num_classes=7
)


def timm_model(config: vit.ViTConfig) -> nn.Module:
    pools: dict[str, str] = {"token": "token", "gap": "avg", "map": "map"}
    arguments: dict[str, Any] = {
        "img_size": config.image_hw,
        "patch_size": config.patch_size,
        "num_classes": config.num_classes,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": (config.mlp_dim + 0.5) / config.width,
        "class_token": config.pool == "token",
        "global_pool": pools[config.pool],
        "fc_norm": config.fc_norm,
        "pos_embed": "learn" if config.pos_embed == "learned-1d" else "none",
        "no_embed_class": not config.pos_embed_prefix,
        "reg_tokens": config.registers,
        "act_layer": "gelu_tanh" if config.gelu == "tanh" else "gelu",
    }
    with torch.device("meta"):  # its weights are replaced anyway
        return timm.models.VisionTransformer(**arguments)


def assert_same_logits(ours: nn.Module, theirs: nn.Module, images: torch.Tensor) -> None:
    theirs.load_state_dict(ours.state_dict(), assign=True)
    with torch.no_grad():
        found, wanted = ours.eval()(images), theirs.eval()(images)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def assert_same(ours: nn.Module, theirs: nn.Module, images: torch.Tensor) -> None:
    """Logits within 1e-5, and every gradient within 1e-5 of the largest."""
    theirs.load_state_dict(ours.state_dict(), assign=True)
    results = []
    for model in (ours.eval(), theirs.eval()):
        logits = model(images)
        logits.square().sum().backward()
        results.append((logits, {n: p.grad for n, p in model.named_parameters()}))
    (our_logits, our_gradients), (their_logits, their_gradients) = results
    torch.testing.assert_close(our_logits, their_logits, atol=1e-5, rtol=0)
    for name, gradient in their_gradients.items():
        tolerance = 1e-5 * max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(our_gradients[name], gradient, atol=tolerance, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in vit.VARIANTS if name.startswith("vit_")])
def test_every_variant_at_reduced_depth_is_timms(name):
    """One block on a 3x3 grid: the variants differ in widths, heads and patches alone."""
    variant = vit.VARIANTS[name]
    assert isinstance(variant, vit.ViTConfig)
    config = replace(variant, depth=1, image_size=3 * variant.patch_size, num_classes=11)
    assert_same_logits(random_model(config), timm_model(config), images_for(config))


@pytest.mark.parametrize("name", ["vit_ti16", "vit_s32", "vit_b8"])
def test_gradients_of_every_parameter_are_timms(name):
    config = replace(vit.VARIANTS[name], depth=2, image_size=96, num_classes=11)
    assert isinstance(config, vit.ViTConfig)
    assert_same(random_model(config), timm_model(config), images_for(config))


def test_b16_whole_is_timms():
    config = vit.VARIANTS["vit_b16"]
    assert isinstance(config, vit.ViTConfig)
    assert_same_logits(random_model(config), timm_model(config), images_for(config, batch=1))


@pytest.mark.slow
def test_gradients_of_b16_whole_are_timms():
    config = vit.VARIANTS["vit_b16"]
    assert isinstance(config, vit.ViTConfig)
    assert_same(random_model(config), timm_model(config), images_for(config, batch=1))


@pytest.mark.parametrize(
    "change",
    [
        {"pool": "gap"},
        {"pool": "gap", "fc_norm": True},
        {"pool": "map", "gelu": "exact"},
        {"gelu": "exact"},
        {"registers": 3},
        {"registers": 3, "pos_embed_prefix": False},
        {"pos_embed": "none"},
        {"image_size": (32, 64)},
        {"num_classes": 0},
    ],
    ids=str,
)
def test_every_option_timm_has_is_timms(change):
    config = replace(TINY, **change)
    assert_same(random_model(config), timm_model(config), images_for(config))


@pytest.mark.parametrize("blocks", [(1, 1), (1, 2, 1)], ids=str)
def test_hybrids_are_timms_but_for_two_epsilons(blocks):
    """timm's GroupNorm has eps 1e-5 and its weights sqrt(var + 1e-8); the reference differs."""
    stride = 2 ** (1 + len(blocks))
    config = replace(TINY, image_size=2 * stride, patch_size=1, stem_blocks=blocks)
    ours = random_model(config)
    backbone = timm.models.resnetv2.ResNetV2(
        layers=blocks,
        channels=(256, 512, 1024)[: len(blocks)],
        num_classes=0,
        global_pool="",
        preact=False,
        stem_type="same",
        conv_layer=timm.layers.StdConv2dSame,
    )
    theirs = timm.models.VisionTransformer(
        img_size=2 * stride,
        patch_size=1,
        embed_dim=48,
        depth=2,
        num_heads=3,
        mlp_ratio=2,
        num_classes=7,
        act_layer="gelu_tanh",
        embed_layer=lambda **kw: timm.models.vision_transformer_hybrid.HybridEmbed(
            backbone, **{k: v for k, v in kw.items() if k in ("img_size", "embed_dim")}
        ),
    )
    theirs.load_state_dict(ours.state_dict())
    images = images_for(config)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), atol=2e-3, rtol=0)


@pytest.mark.parametrize("factor", [1, 2])
def test_bit_is_timms(factor):
    """In float64: a rounded bit may turn a ReLU or a maximum, and with it a gradient."""
    config = vit.BiTConfig(blocks=(1, 2), width_factor=factor, image_size=49, num_classes=5)
    ours = random_model(config).double()
    theirs = timm.models.resnetv2.ResNetV2(
        layers=(1, 2),
        channels=(256, 512),
        width_factor=factor,
        num_classes=5,
        stem_type="fixed",
        conv_layer=lambda *a, **kw: timm.layers.StdConv2d(*a, eps=1e-10, **kw),
    )
    assert_same(ours, theirs.double(), images_for(config).double())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_timm_file_is_read(suffix, tmp_path):
    theirs = timm_model(TINY).to_empty(device="cpu")
    randomize(theirs)
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, path)
    else:
        from safetensors.torch import save_file

        save_file(theirs.state_dict(), path)
    weights, changes = vit.import_checkpoint(
        path, replace(TINY, image_size=64), source_image_size=32
    )
    nested = ("weights taken from 'state_dict'",) if suffix == ".pth" else ()
    assert changes == (
        f"layout timm ViT, {len(weights)} tensors",
        *nested,
        "assumed pool token: the file does not show whether its head reads the class token or the"
        " patches' mean",
        "not in the file, taken from the stage: heads 3, gelu tanh (timm's default is exact),"
        " norm_eps 1e-06 (timm's default is 1e-06)",
        "assumed pixels of mean 0.5 and std 0.5, no file says which - for others set"
        " --stage.init-mean and --stage.init-std (ImageNet's are 0.485 0.456 0.406 and 0.229 0.224"
        " 0.225)",
        "pos_embed 4x4 -> 8x8",
    )
    weights, _ = vit.import_checkpoint(path, TINY)
    ours = vit.build_model(TINY).eval()
    ours.load_state_dict(weights)
    images = images_for(TINY)
    torch.testing.assert_close(ours(images), theirs.eval()(images), atol=1e-5, rtol=0)


def test_what_timm_has_and_the_stages_model_has_not_is_named(tmp_path):
    theirs = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2, qk_norm=True
    )
    torch.save(theirs.state_dict(), tmp_path / "normed.pth")
    with pytest.raises(vit.BadCheckpoint, match="cannot turn qk_norm True into False") as error:
        vit.import_checkpoint(tmp_path / "normed.pth", replace(TINY, num_classes=1000))
    assert len(str(error.value).removeprefix(str(tmp_path))) < 450
    assert "--stage.model.qk-norm" in str(error.value)
