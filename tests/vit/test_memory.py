"""The formula against what autograd saves, counted."""

from dataclasses import replace

import pytest
import torch

import vit
from pipelines.recipes import find_recipe
from tests.vit.support.live import LiveMemory
from vit.config import PosEmbed
from vit.memory import activation_bytes, forward_bytes, saved_bytes, workspace_bytes

SMALL = vit.ViTConfig(
    image_size=64, patch_size=16, width=96, depth=3, heads=4, mlp_dim=384, num_classes=7
)
BATCH = 4


def measured(config: vit.Config, dtype: torch.dtype, *, checkpointing: bool = False) -> int:
    model = vit.build_model(config).to(dtype).train()
    model.set_grad_checkpointing(checkpointing)
    images = torch.rand(BATCH, config.in_channels, *config.image_hw).to(dtype)
    return saved_bytes(model, lambda: model(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, dropout=0.1),
        replace(SMALL, pool="gap", head="mlp"),
        replace(SMALL, pool="gap", fc_norm=True, pos_embed="sincos-2d"),
        replace(SMALL, pool="map", mlp_dim=200),
        replace(SMALL, registers=3, depth=5),
        replace(SMALL, drop_path=0.1),
        replace(SMALL, image_size=96, patch_size=8, heads=6),
        replace(SMALL, layer_scale=True, qkv_bias="none"),
        replace(SMALL, qk_norm=True, pre_norm=True, patch_bias=False),
        replace(SMALL, mlp="swiglu", qkv_bias="no-key"),
        replace(SMALL, mlp="swiglu", mlp_norm=True, attn_norm=True, rotary="axial"),
        replace(SMALL, rotary="dinov3", qk_norm=True, proj_bias=False),
        replace(SMALL, gelu="quick", pool="map"),
        replace(SMALL, distilled=True, image_size=70, drop_rest=True),
    ],
    ids=[
        "token",
        "dropout",
        "gap",
        "fc-norm",
        "map",
        "registers",
        "drop-path",
        "more-tokens",
        "layer-scale",
        "qk-norm",
        "swiglu",
        "inner-norms",
        "dinov3",
        "quick-gelu",
        "distilled",
    ],
)
def test_the_formula_is_what_autograd_saves(config: vit.ViTConfig, dtype: torch.dtype) -> None:
    found = activation_bytes(config, BATCH, element_bytes=dtype.itemsize)
    assert found == pytest.approx(measured(config, dtype), rel=0.005)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["relative", "relative-bias"])
def test_relative_positions_keep_a_matrix_of_tokens(kind: PosEmbed, dtype: torch.dtype) -> None:
    config = replace(SMALL, pos_embed=kind, image_size=128)
    found = activation_bytes(config, BATCH, element_bytes=dtype.itemsize)
    assert found == pytest.approx(measured(config, dtype), rel=0.05)


def test_checkpointing_keeps_the_blocks_inputs() -> None:
    inputs = measured(SMALL, torch.float32, checkpointing=True)
    whole = activation_bytes(SMALL, BATCH, element_bytes=4)
    found = activation_bytes(SMALL, BATCH, element_bytes=4, checkpointing=True)
    assert inputs < found < whole  # the inputs, and one block while it is computed again


@pytest.mark.parametrize(
    "config",
    [
        vit.BiTConfig(image_size=64, blocks=(1, 2), num_classes=5),
        replace(SMALL, stem_blocks=(1, 1), patch_size=1, image_size=64),
    ],
    ids=["bit", "hybrid"],
)
def test_resnets_are_counted_on_shapes(config: vit.Config) -> None:
    found = activation_bytes(config, BATCH, element_bytes=4)
    assert found == pytest.approx(measured(config, torch.float32), rel=0.01)


def test_the_largest_model_is_counted_without_memory() -> None:
    huge = vit.VARIANTS["vit_h14"]
    assert isinstance(huge, vit.ViTConfig)
    kept = activation_bytes(huge, 1, element_bytes=2)
    # 32 blocks of 257 tokens, 16 widths each, two bytes a number
    assert kept == pytest.approx(32 * 257 * 16 * 1280 * 2, rel=0.05)
    assert 0 < workspace_bytes(huge, 1, element_bytes=2) < kept / 30


def forward_ratio(config: vit.Config, dtype: torch.dtype) -> float:
    """What `forward_bytes` expects over what a forward pass holds."""
    model = vit.build_model(config, seed=None).to(dtype).eval()
    images = torch.empty(BATCH, config.in_channels, *config.image_hw)
    with torch.no_grad(), LiveMemory(images, *model.parameters(), *model.buffers()) as memory:
        pixels = images + 0  # float32, as `normalize` makes them
        model(pixels.to(dtype))
    return forward_bytes(config, BATCH, element_bytes=dtype.itemsize) / memory.peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, pool="gap"),
        replace(SMALL, pool="map", gelu="quick"),
        replace(SMALL, mlp="swiglu", mlp_norm=True, attn_norm=True, rotary="axial"),
        replace(SMALL, qk_norm=True, layer_scale=True),
        replace(SMALL, image_size=224, pos_embed="relative-bias"),
        replace(vit.VARIANTS["vit_h14"], depth=2),
    ],
    ids=["token", "gap", "map", "swiglu", "qk-norm", "relative-bias", "h14"],
)
def test_a_forward_pass_without_gradients_holds_as_much(
    config: vit.Config, dtype: torch.dtype
) -> None:
    assert forward_ratio(config, dtype) == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, mlp="swiglu", pool="gap")])
def test_few_hidden_units_make_attention_the_peak(config: vit.ViTConfig) -> None:
    assert 1 <= forward_ratio(replace(config, mlp_dim=96), torch.float32) < 1.05


def test_relative_positions_hold_matrices_of_tokens() -> None:
    relative = replace(SMALL, image_size=224, pos_embed="relative")
    assert 1 <= forward_ratio(relative, torch.float32) < 1.1


@pytest.mark.parametrize("recipe", ["r50-vit-b16-jft", "bit-r50x1-jft"])
def test_a_resnet_holds_less_than_four_maps(recipe: str) -> None:
    """In float32: for bfloat16 a CPU makes copies of its own."""
    config = find_recipe(recipe).stages[0].model
    assert 1 <= forward_ratio(config, torch.float32) < 1.15
