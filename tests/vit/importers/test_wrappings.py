"""The same weights, wrapped as training scripts wrap them, give the same logits; it is said how."""

import argparse
import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file

import vit
from tests.vit.importers.public import TINY, assert_same_logits, imported, save, tiny_timm

if find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)

THEIRS = tiny_timm()
STATE = THEIRS.state_dict()
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}  # must not be taken


def prefixed(prefix, state=STATE):
    return {prefix + name: tensor for name, tensor in state.items()}


PREFIXES = (
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "backbone.",
    "encoder.",
    "timm_model.",
    "visual.trunk.",
    "visual.",
    "net.vit.",
)
NESTINGS = {
    "state_dict": {"state_dict": STATE, "epoch": 3},
    "model": {"model": STATE, "optimizer": {"state": {}}},
    "timm's train.py": {
        "state_dict": STATE,
        "state_dict_ema": OTHER,
        "args": argparse.Namespace(lr=0.1, model="vit"),
        "metric": 0.5,
    },
    "MAE": {"model": STATE, "scaler": {"scale": 1.0}, "args": argparse.Namespace(blr=1e-3)},
    "DINO": {
        "student": prefixed("module.backbone.", OTHER),
        "teacher": prefixed("backbone.") | {"head.mlp.0.weight": torch.ones(3, 3)},
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small"),
    },
    "Lightning": {
        "state_dict": prefixed("model.") | {"criterion.weight": torch.ones(7)},
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 0.1},
    },
    "MoCo v3": {
        "state_dict": prefixed("module.base_encoder.")
        | prefixed("module.momentum_encoder.", OTHER)
        | {"module.predictor.0.weight": torch.ones(3, 3)}
    },
    "DeepSpeed": {"module": STATE, "optimizer": None, "global_steps": 3, "ds_config": {"a": 1}},
    "blocks compiled one by one": {
        name.replace("blocks.0.", "blocks.0._orig_mod."): tensor for name, tensor in STATE.items()
    },
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_taken_off_and_said(prefix, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        save(prefixed(prefix), path)
    else:
        save_file(prefixed(prefix), path)
    ours, notes = imported(path, TINY)
    assert_same_logits(ours, THEIRS)
    shown = prefix.replace("_orig_mod.", "")
    assert not shown or f"removed {shown} from the names" in notes
    assert ("removed _orig_mod. from the names" in notes) == ("_orig_mod." in prefix)


@pytest.mark.parametrize("name", NESTINGS)
def test_a_nesting_is_taken_off_and_said(name, tmp_path):
    ours, notes = imported(save(NESTINGS[name], tmp_path / "weights.pth"), TINY)
    assert_same_logits(ours, THEIRS)
    assert any("taken from" in note or "names without" in note for note in notes)


def test_what_lies_beside_the_weights_is_named(tmp_path):
    _, notes = imported(save(NESTINGS["timm's train.py"], tmp_path / "last.pth.tar"), TINY)
    assert "weights taken from 'state_dict'; left out beside it: state_dict_ema" in notes
    _, notes = imported(save(NESTINGS["DINO"], tmp_path / "dino.pth"), TINY)
    assert "weights taken from 'teacher'; left out beside it: student" in notes
    assert "removed backbone. from the names; left out tensors without it: head.mlp.*" in notes
    _, notes = imported(save(NESTINGS["MoCo v3"], tmp_path / "moco.pth.tar"), TINY)
    assert (
        "removed module.base_encoder. from the names; left out tensors without it:"
        " module.momentum_encoder.*, module.predictor.*" in notes
    )


@pytest.mark.parametrize("name", ["best.pth.tar", "last.ckpt", "MODEL.PTH", "model.pt", "a.bin"])
def test_the_usual_endings_are_read(name, tmp_path):
    ours, _ = imported(save(STATE, tmp_path / name), TINY)
    assert_same_logits(ours, THEIRS)


@pytest.mark.parametrize("latest", [True, False])
def test_a_deepspeed_folder_is_read(latest, tmp_path):
    inner = tmp_path / "global_step7" if latest else tmp_path
    inner.mkdir(exist_ok=True)
    if latest:
        (tmp_path / "latest").write_text("global_step7\n")
    save(NESTINGS["DeepSpeed"], inner / "mp_rank_00_model_states.pt")
    ours, notes = imported(tmp_path, TINY)
    assert_same_logits(ours, THEIRS)
    assert any("mp_rank_00_model_states.pt in DeepSpeed's folder" in note for note in notes)


def test_empty_weights_of_zero_3_are_refused(tmp_path):
    empty = {name: torch.empty(0) for name in STATE}
    path = save({"module": empty}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(vit.BadCheckpoint, match=r"zero_to_fp32\.py"):
        vit.import_checkpoint(path, TINY)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_with_an_index_are_put_together(kind, tmp_path):
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names = sorted(STATE)
    places = {name: f"{stem}-0000{1 + i % 2}-of-00002.{kind}" for i, name in enumerate(names)}
    for shard in set(places.values()):
        part = {name: STATE[name] for name in names if places[name] == shard}
        save_file(part, tmp_path / shard) if kind == "safetensors" else save(part, tmp_path / shard)
    index = tmp_path / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for path in (tmp_path, index):
        ours, _ = imported(path, TINY)
        assert_same_logits(ours, THEIRS)
    (tmp_path / f"{stem}-00002-of-00002.{kind}").unlink()
    with pytest.raises(vit.BadCheckpoint, match=rf"2 shards, missing {stem}-00002"):
        vit.import_checkpoint(tmp_path, TINY)


def test_two_models_in_one_file_are_told_apart_by_the_user(tmp_path):
    path = save(prefixed("left.") | prefixed("right.", OTHER), tmp_path / "pair.pth")
    with pytest.raises(vit.BadCheckpoint, match=r"several models, under left\., right"):
        vit.import_checkpoint(path, TINY)


def test_the_decoder_of_mae_is_left_out_and_said(tmp_path):
    decoder = dict.fromkeys(("mask_token", "decoder_norm.weight"), STATE["norm.weight"])
    path = save({"model": STATE | decoder}, tmp_path / "mae.pth")
    ours, notes = imported(path, TINY)
    assert_same_logits(ours, THEIRS)
    assert (
        "left out the decoder or mask token of pre-training: decoder_norm.weight, mask_token"
        in notes
    )


def test_mmpretrains_backbone_is_read_and_its_classifier_left_out(tmp_path):
    words = (
        ("blocks.", "layers."),
        ("patch_embed.proj.", "patch_embed.projection."),
        ("mlp.fc1.", "ffn.layers.0.0."),
        ("mlp.fc2.", "ffn.layers.1."),
        (".norm1.", ".ln1."),
        (".norm2.", ".ln2."),
    )
    state = {}
    for name, tensor in STATE.items():
        for here, there in words:
            name = name.replace(here, there)
        name = "head.layers." + name if name.startswith("head.") else "backbone." + name
        state[name.replace("backbone.norm.", "backbone.ln1.")] = tensor
    path = save({"state_dict": state, "meta": {"epoch": 3}}, tmp_path / "mm.pth")
    ours, notes = imported(path, replace(TINY, num_classes=0))
    assert any("left out tensors without it: head.layers.*" in note for note in notes)
    pixels = torch.rand(2, 3, 32, 32)
    wanted = THEIRS.forward_head(THEIRS.forward_features(pixels), pre_logits=True)
    torch.testing.assert_close(ours(pixels), wanted, atol=1e-5, rtol=0)
