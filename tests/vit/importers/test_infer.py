"""The config inferred from timm's own files gives timm's logits, name by name."""

import shutil
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch

import vit
from tests.vit.importers.public import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TINY,
    assert_same_logits,
    imported,
    save,
    tiny_timm,
)
from tests.vit.support.peers import import_timm, random_model, randomize
from vit.importers.timm_names import Turning, known_name, refused_name

if find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)
timm = import_timm()

# One of each kind that models here have; sizes, heads, pooling, GELU, pixels differ.
NAMES = (
    "vit_tiny_patch16_224",
    "vit_small_patch32_224",
    "vit_base_patch8_224",
    "vit_base_patch16_224_miil",
    "vit_large_patch14_224",
    "vit_huge_patch14_gap_224",
    "vit_giant_patch14_224",
    "vit_gigantic_patch14_224",
    "vit_base_patch16_gap_224",
    "vit_base_patch16_plus_240",
    "vit_base_patch16_reg4_gap_256",
    "vit_medium_patch16_gap_240",
    "vit_mediumd_patch16_reg4_gap_256",
    "vit_betwixt_patch16_reg1_gap_256",
    "vit_little_patch16_reg1_gap_256",
    "vit_wee_patch16_reg1_gap_256",
    "vit_so150m_patch16_reg4_gap_256",
    "vit_so150m2_patch16_reg1_gap_256",
    "vit_so400m_patch14_siglip_224",
    "vit_so400m_patch16_siglip_256",
    "vit_so400m_patch14_siglip_gap_224",
    "vit_base_patch32_siglip_256",
    "vit_small_patch14_dinov2",
    "vit_base_patch14_reg4_dinov2",
    "deit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "eva_large_patch14_196",
    "flexivit_small",
    "vit_base_patch32_clip_224",
    "vit_base_patch32_clip_quickgelu_224",
)


def timm_named(name: str, **changes: Any) -> Any:
    """timm's model of this name with two blocks, a 4x3 grid and random weights."""
    patch = timm.create_model(name, depth=1).patch_embed.patch_size[0] if "flexi" in name else None
    patch = patch or int(name.split("patch")[1].split("_")[0])
    with torch.device("meta"):
        model = timm.create_model(
            name, depth=2, img_size=(4 * patch, 3 * patch), num_classes=5, **changes
        )
    model.to_empty(device="cpu")
    randomize(model)
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_the_config_of_a_timm_folder_is_inferred(name, tmp_path):
    theirs = timm_named(name)
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True)
    found = vit.infer_config(tmp_path)
    ours, _ = imported(tmp_path, found.config)
    size = theirs.patch_embed.img_size
    mean, std = theirs.pretrained_cfg["mean"], theirs.pretrained_cfg["std"]
    assert (found.mean, found.std) == (tuple(mean), tuple(std))
    assert found.config.image_size == size
    assert found.inferred_from.keys() >= {"heads", "pool", "gelu", "norm_eps", "mean", "width"}
    assert_same_logits(ours, theirs, size=size, mean=mean, std=std)


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_base_patch14_reg4_dinov2",
     "vit_base_patch16_reg4_gap_256", "vit_base_patch16_siglip_256"],
)  # fmt: skip
def test_the_config_of_a_bare_state_dict_is_inferred_but_for_its_heads(name, tmp_path):
    theirs = timm_named(name)
    path = save({"state_dict": theirs.state_dict()}, tmp_path / "last.pth.tar")
    with pytest.raises(vit.BadCheckpoint, match=r"number of heads.*--stage\.model\.heads"):
        vit.infer_config(path)
    size = theirs.patch_embed.img_size
    found = vit.infer_config(path, heads=theirs.blocks[0].attn.num_heads, image_size=size)
    assert (found.mean, found.inferred_from["mean"]) == (None, "unknown")
    assert found.inferred_from["heads"] == "given"
    assert found.inferred_from["gelu"] == "timm's default, not in the file"
    ours, _ = imported(path, found.config)
    assert_same_logits(ours, theirs, size=size)


def turning_of(model: Any) -> Turning:
    """The rotary positions of a model of timm's, as our config says them."""
    rope = getattr(model, "rope", None)
    if rope is None:
        return Turning()
    axial = type(rope).__name__ == "RotaryEmbeddingCat"
    assert axial or type(rope).__name__ == "RotaryEmbeddingDinoV3"
    assert (rope.grid_offset, rope.grid_indexing, rope.rotate_half) == (0, "ij", not axial)
    return Turning(
        rotary="axial" if axial else "dinov3",
        rotary_temperature=rope.temperature,
        rotary_reference=rope.ref_feat_shape[0] if axial else 0,
    )


def test_every_name_of_timms_stands_for_what_timm_builds():
    activations = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}
    modules = ("vision_transformer", "deit", "eva")
    names = [name for module in modules for name in timm.list_models(module=module)]
    assert sum(known_name(name) is not None for name in names) > 145
    for name in names:
        known = known_name(name)
        if "sapiens2" in name:  # counts of heads for each block, which cannot be cut
            assert refused_name(name)
            continue
        with torch.device("meta"):
            model = timm.create_model(name, depth=1)
        block = model.blocks[0]
        if type(block).__name__ not in ("Block", "EvaBlock") or known is None:
            assert known is None, name
            continue
        act = type(block.mlp.act).__name__
        wanted = (block.attn.num_heads, block.norm1.eps, model.global_pool)
        assert (known.heads, known.norm_eps, known.pool) == wanted, name
        assert known.activation == activations.get(act, "swiglu"), name
        assert known.turning == turning_of(model), name


def test_each_field_says_what_it_was_inferred_from(tmp_path):
    theirs = timm_named("vit_tiny_patch16_224", global_pool="avg")
    timm.models.save_for_hf(theirs, tmp_path)
    found = vit.infer_config(tmp_path)
    assert found.config == vit.ViTConfig(
        image_size=(64, 48), width=192, depth=2, heads=3, mlp_dim=768, num_classes=5, pool="gap",
        registers=1, fc_norm=True, gelu="exact",
    )  # fmt: skip
    by = found.inferred_from
    assert by["heads"] == "its architecture vit_tiny_patch16_224"
    assert by["pool"] == by["mean"] == by["image_size"] == "config.json"
    assert by["registers"] == "cls_token, which the head does not read (config.json)"
    assert by["width"] == "patch_embed.proj.weight [192, 3, 16, 16]"
    assert by["depth"] == "blocks.0 to blocks.1"
    assert by["dropout"] == "default"


def test_a_renamed_file_is_read_with_the_config_beside_it(tmp_path):
    theirs = timm_named("deit_tiny_patch16_224")
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True)
    shutil.move(tmp_path / "model.safetensors", tmp_path / "deit.safetensors")
    path = tmp_path / "deit.safetensors"
    found = vit.infer_config(path)
    ours, notes = imported(path, found.config)
    assert "config.json beside deit.safetensors read" in notes
    assert_same_logits(ours, theirs, size=(64, 48), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def test_the_config_of_another_model_is_not_taken(tmp_path):
    timm.models.save_for_hf(timm_named("deit_tiny_patch16_224"), tmp_path)
    path = save(tiny_timm().state_dict(), tmp_path / "mine.pth")
    _, notes = imported(path, TINY)
    assert any("is another model's (width 192, the weights have 48)" in note for note in notes)
    assert any("--stage.init-mean" in note for note in notes)


def test_a_size_that_is_no_multiple_of_the_patch_is_that_of_its_grid(tmp_path):
    with torch.device("meta"):
        theirs = timm.create_model("vit_so400m_patch14_siglip_384", depth=2, img_size=60)
    theirs.to_empty(device="cpu")
    randomize(theirs)
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True)
    found = vit.infer_config(tmp_path)
    assert (found.config.image_size, found.config.grid_size) == (60, (4, 4))
    assert any(
        "60 is not a multiple of the patch size 14: took its 4x4 grid" in note
        for note in found.notes
    )


def test_an_activation_that_models_here_have_not_is_refused(tmp_path):
    timm.models.save_for_hf(timm_named("vit_tiny_patch16_224", act_layer="relu"), tmp_path)
    with pytest.raises(vit.BadCheckpoint, match=r"config\.json: activation 'relu'"):
        vit.infer_config(tmp_path)


def test_attention_pooling_without_the_registers_is_refused(tmp_path):
    theirs = timm_named("vit_so150m_patch16_reg4_map_256")
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True)
    with pytest.raises(vit.BadCheckpoint, match="leaves out class and register tokens"):
        vit.infer_config(tmp_path)
    (tmp_path / "config.json").unlink()
    found = vit.infer_config(tmp_path, heads=14, image_size=(64, 48))
    assert any("leaves out class and register" in note for note in found.notes)
    theirs.pool_include_prefix = True
    ours, _ = imported(tmp_path, found.config)
    assert_same_logits(ours, theirs, size=(64, 48))


def test_heads_that_contradict_the_files_are_refused(tmp_path):
    timm.models.save_for_hf(timm_named("deit_tiny_patch16_224"), tmp_path)
    with pytest.raises(vit.BadCheckpoint, match="found 3 in its architecture deit_tiny"):
        vit.infer_config(tmp_path, heads=6)


@pytest.mark.parametrize(
    "config",
    [
        replace(TINY, pool="gap", registers=2, gelu="tanh"),
        replace(TINY, fc_norm=True, pos_embed_prefix=False),
        replace(TINY, pool="map", pos_embed="none"),
        replace(TINY, pool="map", registers=2),
        vit.BiTConfig(image_size=64, num_classes=3),
    ],
    ids=["gap", "fc_norm", "map", "map with registers", "bit"],
)
def test_our_own_timm_folders_come_back(config, tmp_path):
    model = random_model(config)
    vit.export_timm(model.state_dict(), config, tmp_path)
    assert vit.infer_config(tmp_path).config == config


def test_a_hugging_face_folder_says_all(tmp_path):
    config = replace(TINY, norm_eps=1e-12)
    vit.export_hugging_face(random_model(config).state_dict(), config, tmp_path)
    found = vit.infer_config(tmp_path)
    assert found.config == config
    assert found.inferred_from["mean"] == "preprocessor_config.json"
