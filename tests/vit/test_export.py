import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import vit
from tests.vit.support.peers import images_for, import_timm, random_model, randomize
from vit.export import export_hugging_face, export_onnx, export_program, export_timm
from vit.timm_model import timm_arguments

TINY = vit.ViTConfig(
    image_size=32, patch_size=8, width=48, depth=2, heads=3, mlp_dim=100, num_classes=7
)
HALF = (0.5, 0.5, 0.5)
TINY_BIT = vit.BiTConfig(blocks=(1, 1), image_size=48, num_classes=3)
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript or onnxruntime is not installed",
)


@needs_timm
@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, pool="map", gelu="exact"),
        replace(TINY, pool="gap", fc_norm=True, registers=2, image_size=(32, 64)),
        replace(TINY, pool="map", registers=2),
        replace(TINY, pos_embed_prefix=False),
        replace(vit.VARIANTS["bit_r50x1"], image_size=64, num_classes=3),
    ],
    ids=["token", "map", "gap", "map-registers", "no-prefix", "bit"],
)
def test_timm_makes_the_same_model_of_the_folder(config, tmp_path):
    ours = random_model(config).eval()
    export_timm(ours.state_dict(), config, tmp_path)
    theirs = import_timm().create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = images_for(config)
    tolerance = 1e-3 if config.family == "bit" else 1e-5  # timm's other epsilon
    torch.testing.assert_close(theirs(images), ours(images), atol=tolerance, rtol=0)


@needs_transformers
@pytest.mark.parametrize(
    "change",
    [
        {"gelu": "tanh"},
        {"gelu": "exact", "layer_scale": True, "pos_embed_prefix": False},
        {"gelu": "quick", "qkv_bias": "no-key", "patch_bias": False},
        {"qkv_bias": "none", "image_size": 36, "drop_rest": True},
    ],
    ids=["tanh", "deit3", "no-key", "no-bias"],
)
def test_hugging_face_makes_the_same_model_of_the_folder(change, tmp_path):
    from transformers import AutoModelForImageClassification

    config = replace(TINY, **change)
    ours = random_model(config).eval()
    names = [f"kind {i}" for i in range(7)]
    export_hugging_face(ours.state_dict(), config, tmp_path, class_names=names)
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label[6] == "kind 6"
    images = images_for(config)
    torch.testing.assert_close(theirs(images).logits, ours(images), atol=1e-5, rtol=0)


_DINOV2 = {"gelu": "exact", "layer_scale": True, "mlp_dim": 96}
_DINOV3 = {"rotary": "dinov3", "rotary_temperature": 100.0, "pos_embed": "none", "gelu": "exact",
           "layer_scale": True, "qkv_bias": "no-key", "norm_eps": 1e-5}  # fmt: skip
_BEIT = {"gelu": "exact", "layer_scale": True, "qkv_bias": "no-key",
         "pos_embed": "relative-bias"}  # fmt: skip
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "deit": ("DeiTForImageClassificationWithTeacher", {"distilled": True}),
    "dinov2": ("Dinov2ForImageClassification", _DINOV2),
    "dinov2-no-bias": ("Dinov2ForImageClassification", _DINOV2 | {"qkv_bias": "none"}),
    "dinov2-swiglu": (
        "Dinov2ForImageClassification", _DINOV2 | {"mlp": "swiglu", "mlp_dim": 128}
    ),
    "dinov2-registers": (
        "Dinov2WithRegistersForImageClassification",
        _DINOV2 | {"registers": 3, "pos_embed_prefix": False, "patch_bias": False},
    ),
    "registers-with-positions": (
        "Dinov2WithRegistersForImageClassification", _DINOV2 | {"registers": 3}
    ),
    "beit": ("BeitForImageClassification", _BEIT),
    "beit-mean": (
        "BeitForImageClassification", _BEIT | {"pool": "gap", "registers": 1, "fc_norm": True}
    ),
    "siglip": ("SiglipForImageClassification", {"pool": "gap", "qkv_bias": "none"}),
}  # fmt: skip
_BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTModel", {}),
    "dinov2": ("Dinov2Model", _DINOV2),
    "dinov2-registers": (
        "Dinov2WithRegistersModel", _DINOV2 | {"registers": 4, "pos_embed_prefix": False}
    ),
    "dinov3": ("DINOv3ViTModel", _DINOV3 | {"registers": 4}),
    "dinov3-tanh": ("DINOv3ViTModel", _DINOV3 | {"gelu": "tanh"}),
    "dinov3-quick": ("DINOv3ViTModel", _DINOV3 | {"gelu": "quick"}),
    "dinov3-swiglu": ("DINOv3ViTModel", _DINOV3 | {"mlp": "swiglu", "qkv_bias": "all"}),
    "siglip-gap": ("SiglipVisionModel", {"pool": "gap"}),
    "siglip-map": ("SiglipVisionModel", {"pool": "map", "mlp_dim": 192}),
    "clip": (
        "CLIPVisionModel",
        {"pre_norm": True, "patch_bias": False, "gelu": "quick", "norm_eps": 1e-5},
    ),
}  # fmt: skip


@needs_transformers
@pytest.mark.parametrize("family", _FAMILIES)
def test_each_family_of_hugging_face_computes_our_logits(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    class_name, change = _FAMILIES[family]
    config = replace(TINY, **change)
    ours = random_model(config).eval()
    export_hugging_face(ours.state_dict(), config, tmp_path)
    theirs, said = AutoModelForImageClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert type(theirs).__name__ == class_name
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    images = images_for(config)
    torch.testing.assert_close(theirs.eval()(images).logits, ours(images), atol=1e-5, rtol=0)
    back = _imported(tmp_path)
    torch.testing.assert_close(back(images), ours(images), atol=1e-5, rtol=0)


_SIZES: dict[str, Any] = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
"""Of `TINY`, as transformers' configs call them."""


def _imported(folder: Path) -> Any:
    config = vit.infer_config(folder).config
    model = vit.build_model(config).eval()
    model.load_state_dict(vit.import_checkpoint(folder, config)[0])
    return model


@needs_transformers
def test_the_head_of_dinov2_that_reads_the_patches_is_left_out(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2ForImageClassification

    described: dict[str, Any] = _SIZES | {"num_labels": 7}
    theirs = Dinov2ForImageClassification(Dinov2Config(**described)).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    found = vit.infer_config(tmp_path)
    assert isinstance(found.config, vit.ViTConfig)
    assert found.config.num_classes == 0
    assert any("left out the head" in note for note in found.notes)
    config = replace(found.config, num_classes=3)
    weights, _ = vit.import_checkpoint(tmp_path, config, mean=HALF, std=HALF)
    assert not weights["head.weight"].any()
    model = vit.build_model(config).eval()
    model.load_state_dict(weights)
    images = images_for(config)
    wanted = theirs.dinov2(images).last_hidden_state
    torch.testing.assert_close(model.forward_features(images), wanted, atol=1e-5, rtol=0)


@needs_transformers
def test_a_classifier_of_ones_own_on_siglips_pooling_is_left_out(tmp_path: Path) -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    described: dict[str, Any] = _SIZES | {"intermediate_size": 192}
    tower = SiglipVisionModel(SiglipVisionConfig(**described)).eval()
    randomize(tower)
    tower.config.save_pretrained(tmp_path)
    whole = torch.nn.ModuleDict({"vision_model": tower, "classifier": torch.nn.Linear(48, 3)})
    torch.save(whole.state_dict(), tmp_path / "pytorch_model.bin")
    found = vit.infer_config(tmp_path)
    assert isinstance(found.config, vit.ViTConfig)
    assert (found.config.pool, found.config.num_classes) == ("map", 0)
    assert any("left out the head" in note for note in found.notes)


@needs_transformers
@pytest.mark.parametrize("kind", ["Siglip", "CLIP"])
def test_the_classifiers_of_siglip_and_clip(kind: str, tmp_path: Path) -> None:
    import transformers

    vision = _SIZES | {"intermediate_size": 192}
    described = getattr(transformers, f"{kind}Config")(vision_config=vision, num_labels=7)
    theirs = getattr(transformers, f"{kind}ForImageClassification")(described).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    found = vit.infer_config(tmp_path)
    model = vit.build_model(found.config).eval()
    model.load_state_dict(vit.import_checkpoint(tmp_path, found.config, mean=HALF, std=HALF)[0])
    images = images_for(TINY)
    if kind == "CLIP":  # reads patches before the last norm
        assert found.config.num_classes == 0
        assert any("left out the head" in note for note in found.notes)
    else:
        torch.testing.assert_close(model(images), theirs(images).logits, atol=1e-5, rtol=0)


@needs_transformers
@pytest.mark.parametrize("family", _BACKBONES)
def test_each_backbone_of_hugging_face_computes_our_tokens_and_comes_back(
    family: str, tmp_path: Path
) -> None:
    from transformers import AutoModel

    class_name, change = _BACKBONES[family]
    config = replace(TINY, num_classes=0, **change)
    ours = random_model(config).eval()
    weights = ours.state_dict()
    export_hugging_face(weights, config, tmp_path)
    theirs, said = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs).__name__ == class_name
    assert {name for name in said["missing_keys"] if "pooler" not in name} == set()
    assert not said["unexpected_keys"]
    images = images_for(config)
    found, wanted = theirs.eval()(images), ours.forward_features(images)
    if class_name == "CLIPVisionModel":  # its norm is behind the pooling
        torch.testing.assert_close(found.pooler_output, wanted[:, 0], atol=1e-5, rtol=0)
    else:
        torch.testing.assert_close(found.last_hidden_state, wanted, atol=1e-5, rtol=0)
    features = _imported(tmp_path).forward_features(images)
    torch.testing.assert_close(features, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("export", [export_timm, export_hugging_face])
def test_what_was_exported_is_imported_again_unchanged(export, tmp_path):
    weights = random_model(TINY).state_dict()
    export(weights, TINY, tmp_path)
    again, changes = vit.import_checkpoint(tmp_path, TINY)
    assert len(changes) == 1, changes
    assert all(torch.equal(again[name], weights[name]) for name in weights)


@needs_onnx
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, pool="map", pos_embed="relative"),
        replace(TINY, pos_embed="relative-bias"),
        TINY_BIT,
    ],
    ids=["token", "map-relative", "relative-bias", "bit"],
)
def test_onnxruntime_computes_the_same_logits_for_any_batch(config, tmp_path):
    import onnxruntime

    ours = random_model(config).eval()
    path = tmp_path / "model.onnx"
    assert export_onnx(ours.state_dict(), config, path) < 1e-5
    images = images_for(config, batch=5)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), ours(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", [TINY, TINY_BIT], ids=["vit", "bit"])
def test_an_exported_program_computes_the_same_logits_for_any_batch(config, tmp_path):
    ours = random_model(config).eval()
    export_program(ours.state_dict(), config, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = images_for(config, batch=5)
    torch.testing.assert_close(program(images), ours(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": "map"}, "SigLIP has no place for pool 'map' .wanted 'gap'."),
        ({"pool": "gap", "registers": 2}, "registers 2"),
        ({"registers": 2}, "DINOv2 with registers has no place for layer_scale False"),
        ({"head": "mlp"}, "head 'mlp'"),
        ({"pos_embed": "none"}, "pos_embed 'none'"),
        ({"pos_embed": "none", "rotary": "dinov3", "layer_scale": True}, "DINOv3 .* num_classes 7"),
        ({"pre_norm": True, "patch_bias": False}, "CLIP has no place for num_classes 7"),
        (_BEIT | {"image_size": (32, 64)}, r"BEiT .* image_size \(32, 64\) .*square"),
        ({"pool": "gap", "image_size": (32, 64)}, "SigLIP .* image_size"),
        (_BEIT | {"pool": "gap"}, "registers 0 .wanted 1., fc_norm False .wanted True."),
        (_DINOV2 | {"registers": 2, "image_size": (32, 64)}, r"image_size \(32, 64\) .*square"),
        ({"mlp": "swiglu", "layer_scale": True, "mlp_dim": 101}, "ViT .* mlp 'swiglu'"),
    ],
)
def test_hugging_face_is_not_given_what_it_has_no_place_for(change, message, tmp_path):
    config = replace(TINY, **change)
    with pytest.raises(ValueError, match=message):
        export_hugging_face(random_model(config).state_dict(), config, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed": "relative"}, "pos_embed 'relative'"),
        (_BEIT | {"pool": "gap"}, "Beit has no place for registers '0'"),
        (_BEIT | {"norm_eps": 1e-5}, "norm_eps 1e-05"),
        (_BEIT | {"qkv_bias": "all"}, "qkv_bias 'all'"),
    ],
)
def test_timm_is_not_given_what_it_has_no_place_for(change, message, tmp_path):
    config = replace(TINY, **change)
    with pytest.raises(ValueError, match=message):
        export_timm(random_model(config).state_dict(), config, tmp_path)


def test_timm_is_not_given_a_resnet_it_has_not(tmp_path):
    with pytest.raises(ValueError, match=r"no BiT .*\(1, 1\) and width_factor 1"):
        export_timm(random_model(TINY_BIT).state_dict(), TINY_BIT, tmp_path)


def test_weights_of_another_config_are_not_exported(tmp_path):
    with pytest.raises(ValueError, match=r"head\.weight is \(7, 48\), wanted \(9, 48\)"):
        export_timm(random_model(TINY).state_dict(), replace(TINY, num_classes=9), tmp_path)


def test_class_names_are_counted(tmp_path):
    with pytest.raises(ValueError, match="7 class names, found 2"):
        export_hugging_face(random_model(TINY).state_dict(), TINY, tmp_path, class_names=["a", "b"])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "vit_base_patch16_224"),
        ({"width": 192, "heads": 3, "mlp_dim": 768, "image_size": 384}, "vit_tiny_patch16_224"),
        ({"width": 384, "heads": 6, "mlp_dim": 1536, "patch_size": 32}, "vit_small_patch32_224"),
        ({"width": 384, "heads": 12, "mlp_dim": 1536}, "vit_base_patch16_224"),  # no name has 12
        ({"patch_size": 8}, "vit_base_patch8_224"),
    ],
)
@needs_timm
def test_a_model_of_a_usual_size_has_timms_name_of_it(changes, name):
    config = replace(vit.ViTConfig(num_classes=1000), **changes)
    found, arguments = timm_arguments(config)
    assert found == name
    with torch.device("meta"):
        theirs = import_timm().create_model(found, **arguments)
    kept = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    ours = vit.build_model(replace(config, head="linear"), device="meta").state_dict()
    assert kept == {key: tensor.shape for key, tensor in ours.items()}


def test_a_model_without_a_head_is_a_plain_one_for_transformers(tmp_path: Path) -> None:
    from transformers import AutoModel

    config = vit.ViTConfig(
        image_size=32, patch_size=8, width=32, depth=2, heads=2, mlp_dim=64, num_classes=0
    )
    model = vit.build_model(config, seed=1).eval()
    vit.export_hugging_face(model.state_dict(), config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["ViTModel"]
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = AutoModel.from_pretrained(tmp_path).eval()(images).last_hidden_state
        torch.testing.assert_close(found, model.forward_features(images), atol=1e-5, rtol=1e-5)
