"""Files that are no weights, or broken: one line each that says what they are and what to do."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vit
from tests.vit.importers.public import TINY, imported, save, tiny_state
from tests.vit.support.peers import random_model
from vit.errors import BadModel

if find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)

STATE = tiny_state()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 346284714\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
SUFFIXES = (".safetensors", ".pth", ".bin", ".npz", ".ckpt")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "is a Git LFS pointer, not the weights - run: git lfs pull"),
        (PAGE, "is a web page, not weights"),
        (b"", "is empty - download it again"),
        (b"PK\x03\x04 but no zip archive", "is damaged or cut short"),
        (b"\x80\x02]q\x00garbage", "is damaged or cut short"),
    ],
    ids=["lfs", "html", "empty", "zip", "garbage"],
)
def test_what_is_no_file_of_weights_is_said_in_one_line(content, message, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(vit.BadCheckpoint, match=message) as error:
        vit.import_checkpoint(path, TINY)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_half_a_file_is_said_in_one_line(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    if suffix == ".npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in STATE.items()}
        np.savez(path, **arrays)
    elif suffix == ".safetensors":
        save_file(STATE, path)
    else:
        save(STATE, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(vit.BadCheckpoint, match="is damaged or cut short") as error:
        vit.import_checkpoint(path, TINY)
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


def test_a_pickled_module_is_refused_in_one_line(tmp_path):
    path = save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "whole.pth")
    with pytest.raises(vit.BadCheckpoint, match=r"pickled torch\.nn\S*Sequential"):
        vit.import_checkpoint(path, TINY)
    path = save({"state_dict": STATE, "config": tmp_path}, tmp_path / "more.pth")
    with pytest.raises(vit.BadCheckpoint, match=r"pickled pathlib\S*, and unpickling runs code"):
        vit.import_checkpoint(path, TINY)


def test_the_options_in_a_namespace_stay_allowed_for_this_reader_alone(tmp_path):
    vit.import_checkpoint(save(STATE, tmp_path / "plain.pth"), TINY)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_a_folder_with_one_other_file_of_weights_is_read(tmp_path):
    save_file(STATE, tmp_path / "vit.safetensors")
    _, notes = imported(tmp_path, TINY)
    assert f"read vit.safetensors, the only weights file in {tmp_path}" in notes
    save(STATE, tmp_path / "other.pth")
    with pytest.raises(vit.BadCheckpoint, match=r"several .*\(other\.pth, vit\.safetensors\)"):
        vit.import_checkpoint(tmp_path, TINY)


def test_the_folder_above_a_trainers_checkpoints_names_them(tmp_path):
    (tmp_path / "checkpoint-500").mkdir()
    save_file(STATE, tmp_path / "checkpoint-500" / "model.safetensors")
    with pytest.raises(vit.BadCheckpoint, match="give one of its folders: checkpoint-500"):
        vit.import_checkpoint(tmp_path, TINY)


def test_an_index_that_is_none_is_said(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_bytes(POINTER)
    with pytest.raises(vit.BadCheckpoint, match="Git LFS pointer"):
        vit.import_checkpoint(tmp_path, TINY)


def test_a_config_that_is_no_json_is_said(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(vit.BadCheckpoint, match=r"config\.json is not valid JSON"):
        vit.import_checkpoint(tmp_path, TINY)
    (tmp_path / "config.json").write_text(json.dumps({"lr": 0.1}))
    _, notes = imported(tmp_path, TINY)
    assert "config.json beside it describes no model: ignored" in notes


_WRONG = [torch.ones(shape) for shape in ((), (5,), (5, 7), (1, 2, 3), (2, 3, 4, 5))]
_BEIT = {"pos_embed": "relative-bias", "qkv_bias": "no-key", "layer_scale": True}


@pytest.mark.parametrize(
    ("export", "change", "left_out"),  # what is no part of our model may have any shape
    [
        (vit.export_timm, {"pool": "map"}, ""),
        (vit.export_timm, _BEIT, ""),
        (vit.export_hugging_face, {}, ""),
        (vit.export_hugging_face, _BEIT, ""),
        (
            vit.export_hugging_face,
            {"layer_scale": True, "registers": 2},
            "dinov2_with_registers.embeddings.mask_token",
        ),
        (vit.export_hugging_face, {"pool": "gap"}, "classifier.weight"),
    ],
    ids=["timm", "timm-beit", "vit", "beit", "dinov2", "siglip"],
)
def test_a_tensor_of_any_shape_is_a_bad_checkpoint_at_most(
    export: Callable[..., None], change: dict[str, Any], left_out: str, tmp_path: Path
) -> None:
    config = replace(TINY, depth=1, **change)
    export(random_model(config).state_dict(), config, tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    read = whole.keys() - {left_out}
    refused = 0
    for name in read:
        for tensor in _WRONG:
            save_file({**whole, name: tensor}, path)
            try:
                vit.infer_config(tmp_path)
                vit.import_checkpoint(tmp_path, config)
            except BadModel:
                refused += 1
    assert refused == len(read) * len(_WRONG)  # none has a shape that fits
