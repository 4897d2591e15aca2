import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import vit
from tests.vit.support.peers import images_for, import_timm, random_model
from vit.export import export_hugging_face, export_onnx, export_program, export_timm
from vit.timm_model import timm_arguments

TINY = vit.ViTConfig(
    image_size=32, patch_size=8, width=48, depth=2, heads=3, mlp_dim=100, num_classes=7
)
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
    [TINY, replace(TINY, pool="map", pos_embed="relative"), TINY_BIT],
    ids=["token", "map-relative", "bit"],
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
        ({"pool": "gap"}, "pool 'gap' .wanted 'token'."),
        ({"registers": 2}, "registers 2"),
        ({"head": "mlp"}, "head 'mlp'"),
        ({"pos_embed": "none"}, "pos_embed 'none'"),
    ],
)
def test_hugging_face_is_not_given_what_it_has_no_place_for(change, message, tmp_path):
    config = replace(TINY, **change)
    with pytest.raises(ValueError, match=message):
        export_hugging_face(random_model(config).state_dict(), config, tmp_path)


def test_timm_is_not_given_what_it_has_no_place_for(tmp_path):
    config = replace(TINY, pos_embed="relative")
    with pytest.raises(ValueError, match="pos_embed 'relative'"):
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
