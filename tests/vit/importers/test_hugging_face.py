"""The same weights in Hugging Face's ViT and here give the same logits, through its folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vit
from tests.vit.support.peers import images_for, randomize

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

TINY = vit.ViTConfig(
    image_size=32, patch_size=8, width=48, depth=2, heads=3, mlp_dim=96, num_classes=7
)


def hugging_face_config(config: vit.ViTConfig, **changes):
    return transformers.ViTConfig(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_dim,
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_labels=config.num_classes,
        hidden_act="gelu" if config.gelu == "exact" else "gelu_pytorch_tanh",
        layer_norm_eps=config.norm_eps,
        **changes,
    )


def hugging_face_model(config: vit.ViTConfig, **changes):
    model = transformers.ViTForImageClassification(hugging_face_config(config, **changes))
    randomize(model)
    return model.eval()


def imported(folder, config, **options):
    weights, changes = vit.import_checkpoint(folder, config, **options)
    model = vit.build_model(config).eval()
    model.load_state_dict(weights)
    return model, changes


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
def test_a_folder_gives_its_logits(gelu, tmp_path):
    config = replace(TINY, gelu=gelu)
    theirs = hugging_face_model(config)
    theirs.save_pretrained(tmp_path)
    ours, changes = imported(tmp_path, config)
    assert changes[0] == f"layout Hugging Face ViT, {len(theirs.state_dict())} tensors"
    assert changes[1].startswith("assumed pixels of mean 0.5 and std 0.5")
    assert len(changes) == 2
    images = images_for(config)
    torch.testing.assert_close(ours(images), theirs(images).logits, atol=1e-5, rtol=0)


def test_b16_whole_is_hugging_faces(tmp_path):
    config = vit.VARIANTS["vit_b16"]
    assert isinstance(config, vit.ViTConfig)
    theirs = hugging_face_model(config)
    theirs.save_pretrained(tmp_path)
    ours, _ = imported(tmp_path, config)
    images = images_for(config, batch=1)
    torch.testing.assert_close(ours(images), theirs(images).logits, atol=1e-5, rtol=0)


def test_a_folder_of_several_files_is_read_by_its_index(tmp_path):
    theirs = hugging_face_model(TINY)
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    ours, _ = imported(tmp_path, TINY)
    images = images_for(TINY)
    torch.testing.assert_close(ours(images), theirs(images).logits, atol=1e-5, rtol=0)


def test_the_names_of_its_modules_are_read_as_those_of_its_files(tmp_path):
    theirs = hugging_face_model(TINY)
    torch.save(theirs.state_dict(), tmp_path / "state.pt")
    ours, _ = imported(tmp_path / "state.pt", replace(TINY, gelu="tanh"))
    images = images_for(TINY)
    torch.testing.assert_close(ours(images), theirs(images).logits, atol=1e-5, rtol=0)


def test_the_pooler_is_the_pre_training_layer(tmp_path):
    theirs = transformers.ViTModel(hugging_face_config(TINY)).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    ours, _ = imported(tmp_path, replace(TINY, head="mlp", num_classes=0))
    images = images_for(TINY)
    torch.testing.assert_close(ours(images), theirs(images).pooler_output, atol=1e-5, rtol=0)


def test_the_folders_image_size_tells_the_grid(tmp_path):
    hugging_face_model(TINY).save_pretrained(tmp_path)
    _, changes = imported(tmp_path, replace(TINY, image_size=64))
    assert "pos_embed 4x4 -> 8x8" in changes


def test_what_computes_otherwise_is_told(tmp_path):
    hugging_face_model(replace(TINY, gelu="exact", norm_eps=1e-12)).save_pretrained(tmp_path)
    _, changes = imported(tmp_path, TINY)
    assert {"gelu exact -> tanh", "norm_eps 1e-12 -> 1e-06"} <= set(changes)


def test_other_means_and_deviations_are_folded_into_the_first_layer(tmp_path):
    theirs = hugging_face_model(TINY)
    theirs.save_pretrained(tmp_path)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor = {"image_mean": mean, "image_std": std}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    ours, changes = imported(tmp_path, TINY)
    assert any(line.startswith("patch_embed: rewritten from pixels of mean") for line in changes)
    images = images_for(TINY)
    in_theirs = ((images + 1) / 2 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(
        3, 1, 1
    )
    torch.testing.assert_close(ours(images), theirs(in_theirs).logits, atol=1e-5, rtol=0)


def test_attention_without_biases_has_biases_of_zeros(tmp_path):
    config = replace(TINY, gelu="exact", norm_eps=1e-12)
    theirs = hugging_face_model(config, qkv_bias=False)
    theirs.save_pretrained(tmp_path)
    ours, changes = imported(tmp_path, config)
    assert "attn.qkv.bias: not in the checkpoint, set to zeros" in changes
    images = images_for(config)
    torch.testing.assert_close(ours(images), theirs(images).logits, atol=1e-5, rtol=0)


def test_another_number_of_heads_is_refused(tmp_path):
    hugging_face_model(TINY).save_pretrained(tmp_path)
    with pytest.raises(vit.BadCheckpoint, match=r"heads 3 into 4.*--stage\.model\.heads 3"):
        imported(tmp_path, replace(TINY, heads=4))


def test_deit_has_both_of_its_heads(tmp_path):
    described = hugging_face_config(replace(TINY, gelu="exact", norm_eps=1e-12)).to_dict()
    described.pop("model_type")
    theirs = transformers.DeiTForImageClassificationWithTeacher(
        transformers.DeiTConfig(**described)
    ).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    found = vit.infer_config(tmp_path)
    assert found.config == replace(TINY, gelu="exact", norm_eps=1e-12, distilled=True)
    ours, _ = imported(tmp_path, found.config)
    images = images_for(TINY)
    torch.testing.assert_close(ours(images), theirs(images).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("registers", [0, 2])
def test_features_of_dinov2_are_its_own(registers, tmp_path):
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    more = {"num_register_tokens": registers} if registers else {}
    described = getattr(transformers, f"{kind}Config")(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        mlp_ratio=2,
        image_size=32,
        patch_size=8,
        **more,
    )
    theirs = getattr(transformers, f"{kind}Model")(described).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    found = vit.infer_config(tmp_path)
    assert isinstance(found.config, vit.ViTConfig)
    assert (found.config.norm_eps, found.config.registers) == (1e-6, registers)
    ours, notes = imported(tmp_path, found.config)
    assert found.config.layer_scale
    assert not any("LayerScale" in note for note in notes)
    images = images_for(TINY)
    wanted = theirs(images).last_hidden_state
    torch.testing.assert_close(ours.forward_features(images), wanted, atol=1e-5, rtol=0)


SMALL = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


def of_folder(theirs, folder):
    """The model of a saved one's folder, and images for it."""
    randomize(theirs)
    theirs.eval().save_pretrained(folder)
    found = vit.infer_config(folder)
    ours, _ = imported(folder, found.config)
    assert isinstance(ours, vit.ViT)
    assert ours.cost().parameters == sum(
        p.numel() for n, p in theirs.named_parameters() if not n.endswith("mask_token")
    )
    return ours, images_for(found.config)


@pytest.mark.parametrize("gated", [False, True])
def test_features_of_dinov3_are_its_own(gated, tmp_path):
    described = transformers.DINOv3ViTConfig(
        **SMALL, intermediate_size=96, num_register_tokens=4, use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
    )  # fmt: skip
    theirs = transformers.DINOv3ViTModel(described)
    ours, images = of_folder(theirs, tmp_path)
    assert ours.config.qkv_bias == "no-key"
    wanted = theirs(images).last_hidden_state
    torch.testing.assert_close(ours.forward_features(images), wanted, atol=1e-5, rtol=0)


def test_features_of_dinov2_with_a_gated_mlp_are_its_own(tmp_path):
    described = transformers.Dinov2Config(**SMALL, mlp_ratio=2, use_swiglu_ffn=True)
    theirs = transformers.Dinov2Model(described)
    ours, images = of_folder(theirs, tmp_path)
    wanted = theirs(images).last_hidden_state
    torch.testing.assert_close(ours.forward_features(images), wanted, atol=1e-5, rtol=0)


def test_the_pooled_features_of_siglip_are_its_own(tmp_path):
    described = transformers.SiglipVisionConfig(**SMALL, intermediate_size=96)
    theirs = transformers.SiglipVisionModel(described)
    ours, images = of_folder(theirs, tmp_path)
    assert ours.config.pool == "map"
    torch.testing.assert_close(ours(images), theirs(images).pooler_output, atol=1e-5, rtol=0)


def test_the_class_token_of_clips_image_tower_is_its_own(tmp_path):
    described = transformers.CLIPVisionConfig(**SMALL, intermediate_size=96)
    theirs = transformers.CLIPVisionModel(described)
    ours, images = of_folder(theirs, tmp_path)
    torch.testing.assert_close(ours(images), theirs(images).pooler_output, atol=1e-5, rtol=0)


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"none of model\.safetensors"):
        vit.import_checkpoint(tmp_path, TINY)


@pytest.mark.parametrize("mean", [True, False], ids=["mean", "token"])
@pytest.mark.parametrize("tables", ["shared", "own", "shared own"])
def test_the_logits_of_beit_are_its_own(mean: bool, tables: str, tmp_path: Path) -> None:
    """Its blocks share one table of relative positions in pre-training, or have one each."""
    described: dict[str, Any] = {
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
        "patch_size": 8, "intermediate_size": 96, "num_labels": 7, "use_mean_pooling": mean,
        "use_relative_position_bias": "own" in tables,
        "use_shared_relative_position_bias": "shared" in tables,
    }  # fmt: skip
    theirs = transformers.BeitForImageClassification(transformers.BeitConfig(**described)).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    found = vit.infer_config(tmp_path).config
    assert isinstance(found, vit.ViTConfig)
    assert (found.pool, found.registers, found.fc_norm) == (
        ("gap", 1, True) if mean else ("token", 0, False)
    )
    model, _ = imported(tmp_path, found, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = images_for(found)
    torch.testing.assert_close(model(images), theirs(images).logits, atol=1e-5, rtol=0)


def beit(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
        "patch_size": 8, "intermediate_size": 96, "use_relative_position_bias": True,
    } | more  # fmt: skip


def test_beits_pre_training_head_is_left_out(tmp_path: Path) -> None:
    described = transformers.BeitConfig(**beit(vocab_size=30, use_mask_token=True))
    theirs = transformers.BeitForMaskedImageModeling(described).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    found = vit.infer_config(tmp_path)
    assert found.config.num_classes == 0
    assert any("the head of pre-training" in note for note in found.notes)
    imported(tmp_path, found.config)


def test_a_bare_beit_shows_its_heads_and_its_grid(tmp_path: Path) -> None:
    theirs = transformers.BeitForImageClassification(transformers.BeitConfig(**beit(num_labels=7)))
    randomize(theirs)
    path = tmp_path / "beit.bin"
    torch.save(theirs.state_dict(), path)
    found = vit.infer_config(path, pool="gap").config
    assert isinstance(found, vit.ViTConfig)
    assert (found.heads, found.image_size, found.pos_embed) == (3, 32, "relative-bias")
    larger = replace(found, image_size=64)
    weights, notes = vit.import_checkpoint(path, larger)
    assert weights["blocks.0.attn.relative_position_bias_table"].shape == (15 * 15 + 3, 3)
    assert any("assumed image_size 32" in note for note in notes)


@pytest.mark.parametrize("kind", ["Beit", "Dinov2", "ViT", "DINOv3ViT"])
def test_the_names_of_modules_are_read(kind: str, tmp_path: Path) -> None:
    """transformers 5 gives its modules other names than its files."""
    described = beit() if kind == "Beit" else {
        k: v for k, v in beit().items() if not k.startswith("use_") and "mediate" not in k
    }  # fmt: skip
    theirs = getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**described)
    )
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    theirs.config.save_pretrained(tmp_path)
    found = vit.infer_config(tmp_path)
    imported(tmp_path, found.config)


@pytest.mark.parametrize(
    "head", [torch.nn.Linear(144, 3), torch.nn.Conv2d(48, 3, 1)], ids=["wide", "convolution"]
)
def test_a_head_of_ones_own_beside_the_backbone_is_left_out(
    head: torch.nn.Module, tmp_path: Path
) -> None:
    backbone = transformers.ViTModel(hugging_face_config(TINY))
    whole = torch.nn.ModuleDict({"backbone": backbone, "classifier": head})
    torch.save(whole.state_dict(), tmp_path / "pytorch_model.bin")
    backbone.config.save_pretrained(tmp_path)
    found = vit.infer_config(tmp_path)
    assert found.config.num_classes == 0
    assert any("left out tensors without it: classifier" in note for note in found.notes)
