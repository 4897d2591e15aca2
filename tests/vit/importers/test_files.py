"""Files that are no weights, or broken: one line each that says what they are and what to do."""

import argparse
import json
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vit
from tests.vit.importers.public import TINY, imported, save, tiny_state

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
