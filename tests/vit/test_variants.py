"""The size tables of the paper and of the reference code, built on the meta device."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

import vit
from tests.vit.support.peers import import_timm
from vit.timm_model import timm_arguments

# Class token, 224 px, linear head of 1,000 classes; and the same without the head.
PARAMETERS = {
    "vit_ti16": (5_717_416, 5_524_416),
    "vit_s16": (22_050_664, 21_665_664),
    "vit_s32": (22_878_952, 22_493_952),
    "vit_b16": (86_567_656, 85_798_656),
    "vit_b32": (88_224_232, 87_455_232),
    "vit_l16": (304_326_632, 303_301_632),
    "vit_l32": (306_535_400, 305_510_400),
    "vit_h14": (632_045_800, 630_764_800),
    "vit_g14": (1_012_611_432, 1_011_202_432),
    "vit_G14": (1_844_440_680, 1_842_775_680),
}
PRE_TRAINING = {"vit_b16": 103_186_515, "vit_l16": 326_740_307, "vit_h14": 660_385_363}
AT_RESOLUTION = {
    ("vit_b16", 384): 86_859_496,
    ("vit_l16", 384): 304_715_752,
    ("vit_l16", 512): 305_174_504,
    ("vit_h14", 518): 633_470_440,
}
# As timm's models of the same layers count.
CONVOLUTIONAL = {
    "r26_vit_s32": 36_431_912,
    "r50_vit_l32": 328_994_856,
    "bit_r50x1": 25_549_352,
    "bit_r101x1": 44_541_480,
    "bit_r152x2": 236_335_208,
    "bit_r152x4": 936_533_224,
}
# timm's name of each later model, and as many parameters as timm's has at 224 px.
LATER = {
    "deit_distilled_ti16": ("deit_tiny_distilled_patch16_224", 5_910_800),
    "deit_distilled_s16": ("deit_small_distilled_patch16_224", 22_436_432),
    "deit_distilled_b16": ("deit_base_distilled_patch16_224", 87_338_192),
    "deit3_s16": ("deit3_small_patch16_224", 22_059_496),
    "deit3_b16": ("deit3_base_patch16_224", 86_585_320),
    "deit3_l16": ("deit3_large_patch16_224", 304_374_760),
    "deit3_h14": ("deit3_huge_patch14_224", 632_126_440),
    "clip_b32": ("vit_base_patch32_clip_quickgelu_224", 88_225_000),
    "clip_b16": ("vit_base_patch16_clip_quickgelu_224", 86_568_424),
    "clip_l14": ("vit_large_patch14_clip_quickgelu_224", 304_204_776),
    "siglip2_b16": ("vit_base_patch16_siglip_224", 93_653_224),
    "siglip2_l16": ("vit_large_patch16_siglip_256", 316_919_784),
    "siglip2_so400m14": ("vit_so400m_patch14_siglip_224", 428_833_704),
    "siglip2_so400m16": ("vit_so400m_patch16_siglip_256", 428_971_944),
    "dinov2_s14": ("vit_small_patch14_dinov2", 22_013_800),
    "dinov2_b14": ("vit_base_patch14_dinov2", 86_493_928),
    "dinov2_l14": ("vit_large_patch14_dinov2", 304_252_904),
    "dinov2_g14": ("vit_giant_patch14_dinov2", 1_136_306_664),
    "dinov2_reg_s14": ("vit_small_patch14_reg4_dinov2", 22_014_952),
    "dinov2_reg_b14": ("vit_base_patch14_reg4_dinov2", 86_496_232),
    "dinov2_reg_l14": ("vit_large_patch14_reg4_dinov2", 304_255_976),
    "dinov2_reg_g14": ("vit_giant_patch14_reg4_dinov2", 1_136_311_272),
    "dinov3_s16": ("vit_small_patch16_dinov3", 21_971_944),
    "dinov3_s_plus_16": ("vit_small_plus_patch16_dinov3", 29_068_264),
    "dinov3_b16": ("vit_base_patch16_dinov3", 86_410_216),
    "dinov3_l16": ("vit_large_patch16_dinov3", 304_104_424),
    "dinov3_h_plus_16": ("vit_huge_plus_patch16_dinov3", 841_790_440),
    "dinov3_7b_16": ("vit_7b_patch16_dinov3", 6_720_127_976),
    "eva02_ti14": ("eva02_tiny_patch14_224", 5_695_144),
    "eva02_s14": ("eva02_small_patch14_224", 22_006_120),
    "eva02_b14": ("eva02_base_patch14_224", 86_527_720),
    "eva02_l14": ("eva02_large_patch14_224", 304_293_800),
}


def parameters(config):
    return vit.build_model(config, device="meta").cost().parameters


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_exact(name):
    config = vit.VARIANTS[name]
    whole, bare = PARAMETERS[name]
    assert parameters(config) == whole
    assert parameters(replace(config, num_classes=0)) == bare


@pytest.mark.parametrize("name", PRE_TRAINING)
def test_parameters_with_the_pre_training_head_are_exact(name):
    config = replace(vit.VARIANTS[name], head="mlp", num_classes=21_843)
    assert parameters(config) == PRE_TRAINING[name]


@pytest.mark.parametrize(("name", "size"), AT_RESOLUTION)
def test_parameters_at_another_resolution_are_exact(name, size):
    assert parameters(replace(vit.VARIANTS[name], image_size=size)) == AT_RESOLUTION[name, size]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_parameters_of_hybrids_and_resnets_are_exact(name):
    assert parameters(vit.VARIANTS[name]) == CONVOLUTIONAL[name]


@pytest.mark.parametrize("name", LATER)
def test_parameters_of_later_models_are_timms(name):
    assert parameters(vit.VARIANTS[name]) == LATER[name][1]


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("name", LATER)
def test_a_later_model_is_the_one_that_timm_names_so(name, tmp_path):
    """All but heads, which are in no tensor: the shapes of two blocks, by timm's names."""
    timm = import_timm()
    config = replace(vit.VARIANTS[name], depth=2)
    assert isinstance(config, vit.ViTConfig)
    with torch.device("meta"):
        theirs = timm.create_model(LATER[name][0], depth=2, img_size=224, num_classes=1000)
    assert config.heads == theirs.blocks[0].attn.num_heads
    assert config.norm_eps == theirs.blocks[0].norm1.eps
    architecture, arguments = timm_arguments(config)
    with torch.device("meta"):
        ours = timm.create_model(architecture, num_classes=1000, **arguments)
    found = {key: tensor.shape for key, tensor in ours.state_dict().items()}
    assert sum(t.numel() for t in ours.parameters()) == sum(t.numel() for t in theirs.parameters())
    # timm has two names for the layers of a gated MLP, and for q, k and v
    if config.mlp == "gelu":
        assert found == {key: tensor.shape for key, tensor in theirs.state_dict().items()}


def test_r50_b16_without_a_head_has_timms_parameters():
    assert parameters(replace(vit.VARIANTS["r50_vit_b16"], num_classes=0)) == 97_890_112


def test_every_variant_says_its_patch_in_its_name():
    for name, config in vit.VARIANTS.items():
        if isinstance(config, vit.ViTConfig):
            assert name.endswith(str(config.patch_pixels)), name
