from dataclasses import replace

import pytest
import torch

import vit

SOURCE = vit.ViTConfig(
    image_size=32, patch_size=8, width=32, depth=2, heads=2, mlp_dim=64, num_classes=7, head="mlp"
)


def weights_of(config: vit.Config = SOURCE):
    return vit.build_model(config, seed=3).state_dict()


def test_an_equal_config_changes_nothing():
    weights = weights_of()
    adapted, changes = vit.adapt_state_dict(weights, SOURCE, SOURCE)
    assert changes == ()
    assert adapted.keys() == weights.keys()
    assert all(torch.equal(adapted[name], weights[name]) for name in weights)


@pytest.mark.parametrize("pos_embed", ["learned-1d", "learned-2d"])
def test_a_new_resolution_resizes_the_position_table_alone(pos_embed):
    source = replace(SOURCE, pos_embed=pos_embed)
    target = replace(source, image_size=(48, 64))
    adapted, changes = vit.adapt_state_dict(weights_of(source), source, target)
    assert changes == ("pos_embed 4x4 -> 6x8",)
    vit.build_model(target).load_state_dict(adapted)
    for name, tensor in weights_of(source).items():
        assert name.startswith("pos_embed") or torch.equal(adapted[name], tensor), name


def test_the_class_tokens_row_survives_a_new_resolution():
    weights = weights_of()
    adapted, _ = vit.adapt_state_dict(weights, SOURCE, replace(SOURCE, image_size=64))
    assert torch.equal(adapted["pos_embed"][:, 0], weights["pos_embed"][:, 0])


def test_new_classes_get_a_zero_head_with_the_targets_bias():
    target = replace(SOURCE, num_classes=3, head_bias_init=-2.0)
    adapted, changes = vit.adapt_state_dict(weights_of(), SOURCE, target)
    assert changes == ("head 7 -> 3: reset",)
    assert torch.equal(adapted["head.weight"], torch.zeros(3, 32))
    assert torch.equal(adapted["head.bias"], torch.full((3,), -2.0))
    assert "pre_logits.fc.weight" in adapted


def test_a_linear_head_drops_the_pre_training_layer():
    target = replace(SOURCE, head="linear", num_classes=3)
    adapted, changes = vit.adapt_state_dict(weights_of(), SOURCE, target)
    assert changes == ("head mlp -> linear: reset", "head 7 -> 3: reset")
    vit.build_model(target).load_state_dict(adapted)


def test_a_head_can_be_taken_off_and_put_on():
    bare = replace(SOURCE, num_classes=0)
    adapted, changes = vit.adapt_state_dict(weights_of(), SOURCE, bare)
    assert changes == ("head 7 -> 0: reset",)
    back, _ = vit.adapt_state_dict(adapted, bare, SOURCE)
    vit.build_model(SOURCE).load_state_dict(back)


def test_what_only_training_sees_is_no_change():
    _, changes = vit.adapt_state_dict(weights_of(), SOURCE, replace(SOURCE, dropout=0.1))
    assert changes == ()


def test_another_function_of_the_same_weights_is_told():
    target = replace(SOURCE, gelu="exact", norm_eps=1e-5)
    _, changes = vit.adapt_state_dict(weights_of(), SOURCE, target)
    assert changes == ("gelu tanh -> exact", "norm_eps 1e-06 -> 1e-05")


def test_the_input_is_left_as_it_was():
    weights = weights_of()
    before = dict(weights)
    vit.adapt_state_dict(weights, SOURCE, replace(SOURCE, image_size=64, num_classes=3))
    assert all(weights[name] is before[name] for name in before)


def test_every_key_that_does_not_fit_is_named():
    weights = weights_of()
    weights["extra"] = torch.zeros(1)
    del weights["norm.bias"]
    weights["cls_token"] = torch.zeros(1, 1, 5)
    with pytest.raises(ValueError, match=r"cls_token is \(1, 1, 5\), wanted \(1, 1, 32\)") as error:
        vit.adapt_state_dict(weights, SOURCE, SOURCE)
    assert "unknown extra" in str(error.value)
    assert "missing norm.bias" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 64}, "width 32 into 64"), ({"depth": 3}, "depth 2 into 3")],
)
def test_what_no_surgery_can_do_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        vit.adapt_state_dict(weights_of(), SOURCE, replace(SOURCE, **change))


def test_relative_positions_cannot_change_grids():
    source = replace(SOURCE, pos_embed="relative")
    with pytest.raises(ValueError, match="4x4 grid"):
        vit.adapt_state_dict(weights_of(source), source, replace(source, image_size=64))


@pytest.mark.parametrize("pool", ["token", "gap"])  # with and without rows for the class token
def test_relative_biases_are_resized_by_offset(pool: str) -> None:
    """A table that is linear in the offsets is the same plane on a finer grid."""
    source = replace(SOURCE, pos_embed="relative-bias", pool=pool)  # 4x4 patches
    target = replace(source, image_size=64)  # 8x8
    weights, name = weights_of(source), "blocks.1.attn.relative_position_bias_table"
    offsets = torch.linspace(-1, 1, 7)
    plane = (2 * offsets[:, None] + offsets[None]).reshape(-1, 1).expand(-1, SOURCE.heads)
    rest = torch.arange(3.0)[:, None].expand(-1, SOURCE.heads) if pool == "token" else plane[:0]
    weights[name] = torch.cat([plane, rest])
    adapted, changes = vit.adapt_state_dict(weights, source, target)
    finer = torch.linspace(-1, 1, 15)
    wanted = (2 * finer[:, None] + finer[None]).reshape(-1, 1).expand(-1, SOURCE.heads)
    torch.testing.assert_close(adapted[name], torch.cat([wanted, rest]))
    assert changes == ("pos_embed 4x4 -> 8x8",)


def test_new_patches_see_resized_images_as_the_old_ones_saw_the_originals():
    weights = weights_of()
    target = replace(SOURCE, patch_size=16, image_size=64)
    adapted, changes = vit.adapt_state_dict(weights, SOURCE, target)
    assert changes == ("patch_embed 8x8 -> 16x16",)
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(5, 3, 8, 8, generator=generator)
    resized = torch.nn.functional.interpolate(patches, size=(16, 16), mode="bilinear")
    name = "patch_embed.proj.weight"
    torch.testing.assert_close(
        torch.nn.functional.conv2d(resized, adapted[name]),
        torch.nn.functional.conv2d(patches, weights[name]),
        atol=1e-5,
        rtol=0,
    )


def test_prefix_rows_move_into_their_tokens_and_back_without_a_change_of_output():
    source = replace(SOURCE, registers=2)
    bare = replace(source, pos_embed_prefix=False)
    weights = weights_of(source)
    adapted, changes = vit.adapt_state_dict(weights, source, bare)
    assert changes == ("pos_embed: 3 prefix rows added to their tokens",)
    again, changes = vit.adapt_state_dict(adapted, bare, source)
    assert changes == ("pos_embed: 3 prefix rows of zeros added",)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs = []
    for config, state in ((source, weights), (bare, adapted), (source, again)):
        model = vit.build_model(config).eval()
        model.load_state_dict(state)
        outputs.append(model.forward_features(images))
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(outputs[2], outputs[0])


def test_a_resnets_head_is_reset_alone():
    source = vit.BiTConfig(blocks=(1, 1), num_classes=5)
    weights = weights_of(source)
    target = replace(source, image_size=384, num_classes=3)
    adapted, changes = vit.adapt_state_dict(weights, source, target)
    assert changes == ("head 5 -> 3: reset",)
    assert torch.equal(adapted["stem.conv.weight"], weights["stem.conv.weight"])
    vit.build_model(target).load_state_dict(adapted)


def test_a_transformer_does_not_become_a_resnet():
    with pytest.raises(ValueError, match="cannot turn a vit into a bit"):
        vit.adapt_state_dict(weights_of(), SOURCE, vit.BiTConfig())


def test_a_head_of_as_many_classes_is_reset_where_another_task_asks_for_it():
    weights = weights_of()
    weights["head.weight"] = torch.ones(7, 32)
    target = replace(SOURCE, head_bias_init=-2.0)
    kept, changes = vit.adapt_state_dict(weights, SOURCE, target)
    assert (changes, kept["head.weight"].sum()) == ((), 7 * 32)
    reset, changes = vit.adapt_state_dict(weights, SOURCE, target, reset_head=True)
    assert changes == ("head of 7 classes: reset",)
    assert torch.equal(reset["head.weight"], torch.zeros(7, 32))
    assert torch.equal(reset["head.bias"], torch.full((7,), -2.0))
    assert torch.equal(reset["pre_logits.fc.weight"], weights["pre_logits.fc.weight"])


def test_a_resnets_head_of_as_many_classes_is_reset_too():
    source = vit.BiTConfig(blocks=(1, 1), num_classes=5)
    weights = weights_of(source)
    weights["head.fc.weight"] = torch.ones_like(weights["head.fc.weight"])
    reset, changes = vit.adapt_state_dict(weights, source, source, reset_head=True)
    assert changes == ("head of 5 classes: reset",)
    assert not reset["head.fc.weight"].any()


def test_of_many_keys_that_do_not_fit_three_are_named():
    with pytest.raises(ValueError, match=r"; and \d+ more$") as error:
        vit.adapt_state_dict({}, SOURCE, SOURCE)
    assert len(str(error.value)) < 200


def test_what_no_surgery_can_do_is_said_as_options():
    target = replace(SOURCE, width=64, depth=3, fc_norm=True, head="linear")
    with pytest.raises(ValueError, match="weights are of another model") as error:
        vit.adapt_state_dict(weights_of(), SOURCE, target)
    options = "--stage.model.width 32 --stage.model.depth 2 --stage.model.no-fc-norm"
    assert str(error.value).endswith(options)
