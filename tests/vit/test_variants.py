"""The size tables of the paper and of the reference code, built on the meta device."""

from dataclasses import replace

import pytest

import vit

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


def test_r50_b16_without_a_head_has_timms_parameters():
    assert parameters(replace(vit.VARIANTS["r50_vit_b16"], num_classes=0)) == 97_890_112


def test_every_variant_says_its_patch_in_its_name():
    for name, config in vit.VARIANTS.items():
        if isinstance(config, vit.ViTConfig):
            assert name.endswith(str(config.patch_pixels)), name
