"""The parameters of each choice, by their names."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import vit
from vit.errors import BadModel
from vit.trained import check_train, freeze, trained_parameters, training_flops

MODEL = vit.ViTConfig(
    image_size=16, patch_size=8, width=16, depth=3, heads=2, mlp_dim=32, num_classes=4
)
RESNET = vit.BiTConfig(image_size=32, blocks=(1, 2), width_factor=1, num_classes=4)


def trained(config: vit.Config, train: str) -> set[str]:
    model = vit.build_model(config, device="meta")
    freeze(model, train)
    return {name for name, each in model.named_parameters() if each.requires_grad}


def names(config: vit.Config = MODEL) -> set[str]:
    return {name for name, _ in vit.build_model(config, device="meta").named_parameters()}


def test_all_is_every_parameter() -> None:
    assert trained(MODEL, "all") == names()


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (MODEL, {"head.weight", "head.bias"}),
        (
            replace(MODEL, head="mlp"),
            {"head.weight", "head.bias", "pre_logits.fc.weight", "pre_logits.fc.bias"},
        ),
        (
            replace(MODEL, distilled=True),
            {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"},
        ),
        (RESNET, {"head.fc.weight", "head.fc.bias"}),
    ],
)
def test_the_head_is_the_classifier_and_the_hidden_layer_before_it(
    config: vit.Config, parts: set[str]
) -> None:
    assert trained(config, "head") == parts


def test_biases_are_trained_with_the_head() -> None:
    expected = {name for name in names() if name.endswith(".bias")} | {"head.weight"}
    assert {"patch_embed.proj.bias", "blocks.0.norm1.bias", "blocks.2.mlp.fc2.bias"} <= expected
    assert trained(MODEL, "bias") == expected
    fewer = trained(replace(MODEL, qkv_bias="no-key"), "bias")
    assert {"blocks.0.attn.q_bias", "blocks.0.attn.v_bias"} <= fewer


def test_blocks_are_counted_from_0_and_include_what_follows_them() -> None:
    found = trained(MODEL, "blocks 1..")
    assert {name.split(".")[1] for name in found if name.startswith("blocks.")} == {"1", "2"}
    assert {name for name in found if not name.startswith("blocks.")} == {
        *("norm.weight", "norm.bias", "head.weight", "head.bias")
    }
    everything = trained(MODEL, "blocks 0..")
    assert names() - everything == {
        *("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
    }


def test_blocks_of_a_resnet_are_its_bottlenecks() -> None:
    found = trained(RESNET, "blocks 1..")
    assert {name[:18] for name in found if name.startswith("stages.")} == {
        name[:18] for name in names(RESNET) if name.startswith("stages.1.")
    }


@pytest.mark.parametrize(
    "train", ["", "none", "Head", "blocks", "blocks 3..", "blocks 01..", "blocks -1..", "blocks 1"]
)
def test_any_other_choice_is_refused_with_the_numbers_of_the_blocks(train: str) -> None:
    with pytest.raises(BadModel, match=r"N from 0 to 2, found '"):
        check_train(train, MODEL)


def test_layer_decay_counts_from_the_head_as_if_all_were_trained() -> None:
    optim = vit.OptimConfig(layer_decay=0.5)
    whole, part = (vit.build_model(MODEL) for _ in range(2))
    freeze(part, "blocks 1..")
    scales = [
        {
            name: group["lr_scale"]
            for group in vit.param_groups(model, optim)
            for name in group["names"]
        }
        for model in (whole, part)
    ]
    assert scales[1] == {name: scales[0][name] for name in trained(MODEL, "blocks 1..")}
    assert set(scales[1].values()) == {1.0, 0.5, 0.25}


def test_parameters_are_counted() -> None:
    assert trained_parameters(MODEL, "head") == 16 * 4 + 4
    assert trained_parameters(MODEL, "all") == vit.build_model(MODEL).cost().parameters


def test_the_backward_pass_is_counted_where_there_is_one() -> None:
    """The counts of torch, in a network whose head and embedding are small beside its blocks."""
    config = vit.ViTConfig(
        image_size=16, patch_size=4, width=64, depth=4, heads=2, mlp_dim=256, num_classes=2,
        pool="gap",
    )  # fmt: skip
    for train in ("all", "head", "bias", "blocks 1.."):
        model = vit.build_model(config)
        freeze(model, train)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 16, 16)).sum().backward()
        counted = counter.get_total_flops()
        assert training_flops(config, train) == pytest.approx(counted, rel=0.1), train
