from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import vit

# GMAC an image, in the literature's rounding.
GMAC = {
    ("vit_ti16", 224): 1.25,
    ("vit_s16", 224): 4.60,
    ("vit_b32", 224): 4.41,
    ("vit_b16", 224): 17.56,
    ("vit_b16", 384): 55.5,
    ("vit_l16", 224): 61.55,
    ("vit_l16", 384): 191,
    ("vit_h14", 224): 167.3,
    ("vit_h14", 518): 1017,
}


def counted_flops(config) -> int:
    """What torch's counter sees on the meta device when all tokens are computed."""
    model = vit.build_model(config, device="meta")
    images = torch.empty(1, config.in_channels, *config.image_hw, device="meta")
    with FlopCounterMode(display=False) as counter:
        model.forward_head(model.forward_features(images))
    return counter.get_total_flops()


@pytest.mark.parametrize(("name", "size"), GMAC)
def test_multiply_adds_are_the_literatures(name, size):
    config = replace(vit.VARIANTS[name], image_size=size)
    gmac = vit.build_model(config, device="meta").cost().forward_macs / 1e9
    assert gmac == pytest.approx(GMAC[name, size], rel=0.005)


@pytest.mark.parametrize("name", sorted(vit.VARIANTS))
def test_flops_are_what_the_counter_counts(name):
    config = vit.VARIANTS[name]
    if not name.startswith(("vit_", "bit_")):  # the later ones: two blocks tell as much as forty
        config = replace(config, depth=2)
    cost = vit.build_model(config, device="meta").cost()
    assert cost.forward_flops == counted_flops(config)


@pytest.mark.parametrize("pool", ["token", "gap", "map"])
@pytest.mark.parametrize("pos_embed", ["none", "learned-2d", "relative", "relative-bias"])
def test_flops_of_heads_and_positions_are_what_the_counter_counts(pool, pos_embed):
    config = vit.ViTConfig(
        image_size=(32, 64),
        patch_size=8,
        width=48,
        depth=2,
        heads=3,
        mlp_dim=80,
        pool=pool,
        pos_embed=pos_embed,
        head="mlp",
        registers=2,
        num_classes=7,
    )
    cost = vit.build_model(config, device="meta").cost()
    assert cost.forward_flops == counted_flops(config)


@pytest.mark.parametrize(
    "parts",
    [
        {"mlp": "swiglu", "rotary": "axial", "qk_norm": True, "norm": "rms"},
        {"distilled": True, "layer_scale": True, "image_size": 30, "drop_rest": True},
    ],
    ids=str,
)
def test_flops_of_later_blocks_are_what_the_counter_counts(parts):
    config = vit.ViTConfig(
        **{"image_size": 32, "patch_size": 8, "width": 48, "depth": 2, "heads": 3, "mlp_dim": 80}
        | parts
    )
    cost = vit.build_model(config, device="meta").cost()
    assert cost.forward_flops == counted_flops(config)


def test_a_resnets_flops_follow_odd_sizes():
    config = replace(vit.VARIANTS["bit_r50x1"], image_size=(97, 161))
    cost = vit.build_model(config, device="meta").cost()
    assert cost.forward_flops == counted_flops(config)


@pytest.mark.parametrize(("pool", "least"), [("token", 0.06), ("gap", 0.0)])
def test_classifying_by_the_class_token_skips_most_of_the_last_block(pool, least):
    config = replace(vit.VARIANTS["vit_b16"], pool=pool)
    model = vit.build_model(config, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    saved = 1 - counter.get_total_flops() / model.cost().forward_flops
    assert least <= saved < least + 0.01


def test_a_training_step_is_three_forward_passes():
    cost = vit.build_model(vit.VARIANTS["vit_ti16"], device="meta").cost()
    assert cost.training_flops == 3 * cost.forward_flops
