"""Files in the layouts of the authors' Flax code give the logits of that code.

`golden/flax_logits.json` holds, for nine models, the names and shapes of their tensors and what the
authors' modules (vision_transformer and big_vision, under flax 0.12.8 and jax 0.10.2 on the CPU, in
float32 with precise products) made of two images. The tensors themselves are drawn again here.
BiT's max-pool pads with zeros, as the release of its weights does (big_vision's copy does not).
"""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vit

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "flax_logits.json").read_text())
SMALL = vit.ViTConfig(patch_size=8, width=32, depth=2, heads=4, mlp_dim=64, num_classes=5)
HYBRID = replace(SMALL, image_size=32, patch_size=1, stem_blocks=(1, 2))
CONFIGS: dict[str, vit.Config] = {
    "vt_token_pre_logits": replace(SMALL, head="mlp"),
    "vt_token": SMALL,
    "vt_gap": replace(SMALL, pool="gap"),
    "vt_hybrid": HYBRID,
    "bv_tok_learn": SMALL,
    "bv_tok_rep": replace(SMALL, head="mlp", pos_embed_prefix=False),
    "bv_gap_sincos2d": replace(SMALL, pool="gap", pos_embed="sincos-2d"),
    "bv_map_learn": replace(SMALL, pool="map"),
    "bit_paper": vit.BiTConfig(blocks=(1, 2), num_classes=5),
}


def config_of(case: str) -> vit.Config:
    return replace(CONFIGS[case], image_size=tuple(GOLDEN[case]["image"]))


def tensors_of(case: str) -> dict[str, np.ndarray]:
    return {name: drawn(name, shape) for name, shape in GOLDEN[case]["tensors"].items()}


def drawn(name: str, shape: list[int]) -> np.ndarray:
    """Noise that is the same wherever the tensor is drawn; scales are around one."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    tenth = np.float32(0.1) * noise.astype(np.float32)
    return 1 + tenth if name.endswith("scale") else tenth


def logits_of(weights: dict[str, torch.Tensor], config: vit.Config) -> torch.Tensor:
    model = vit.build_model(config).eval()
    model.load_state_dict(weights)
    shape = (2, *config.image_hw, 3)
    images = np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)
    with torch.no_grad():
        return model(torch.from_numpy(images).permute(0, 3, 1, 2))


def save(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    np.savez(path, allow_pickle=False, **tensors)
    return path


def assert_golden(case: str, path: Path) -> tuple[str, ...]:
    weights, changes = vit.import_checkpoint(path, config_of(case))
    logits = logits_of(weights, config_of(case))
    torch.testing.assert_close(logits, torch.tensor(GOLDEN[case]["logits"]), atol=1e-5, rtol=0)
    return changes


@pytest.mark.parametrize("case", GOLDEN)
def test_logits_are_those_of_the_authors_code(case, tmp_path):
    assert_golden(case, save(tmp_path / "model.npz", tensors_of(case)))


@pytest.mark.parametrize("prefix", ["params/", "opt/target/", "params/img/"])
def test_a_training_checkpoint_gives_its_weights_and_says_what_it_left(prefix, tmp_path):
    tensors = {prefix + name: value for name, value in tensors_of("bv_map_learn").items()}
    tensors["step"] = np.zeros(())
    changes = assert_golden("bv_map_learn", save(tmp_path / "model.npz", tensors))
    assert f"left out 1 tensors outside {prefix}" in changes


def test_the_position_table_inside_the_encoder_is_read(tmp_path):
    tensors = tensors_of("bv_tok_learn")
    tensors["Transformer/pos_embedding"] = tensors.pop("pos_embedding")
    assert_golden("bv_tok_learn", save(tmp_path / "model.npz", tensors))


def test_an_inlined_map_head_is_read(tmp_path):
    tensors = {k.removeprefix("MAPHead_0/"): v for k, v in tensors_of("bv_map_learn").items()}
    assert_golden("bv_map_learn", save(tmp_path / "model.npz", tensors))


def test_blocks_stacked_by_a_scan_are_taken_apart(tmp_path):
    tensors = tensors_of("bv_gap_sincos2d")
    for name in [name for name in tensors if "encoderblock_0/" in name]:
        first, second = tensors.pop(name), tensors.pop(name.replace("block_0/", "block_1/"))
        tensors[name.replace("block_0/", "block/")] = np.stack([first, second])
    assert_golden("bv_gap_sincos2d", save(tmp_path / "model.npz", tensors))


def test_bfloat16_comes_as_two_nameless_bytes(tmp_path):
    tensors = tensors_of("vt_token")
    as_bytes = {
        name: torch.from_numpy(value).bfloat16().view(torch.int16).numpy().view("V2")
        for name, value in tensors.items()
    }
    weights, _ = vit.import_checkpoint(
        save(tmp_path / "model.npz", as_bytes), config_of("vt_token")
    )
    expected = torch.from_numpy(tensors["embedding/bias"]).bfloat16().float()
    assert torch.equal(weights["patch_embed.proj.bias"], expected)


def test_the_original_bit_names_are_read(tmp_path):
    """The TensorFlow files: letters for sublayers, beta and gamma, numbered convolutions."""
    tensors: dict[str, np.ndarray] = {}
    for name, value in tensors_of("bit_paper").items():
        parts = name.split("/")
        number, leaf = parts[-2][-1], {"scale": "gamma", "bias": "beta"}.get(parts[-1], "")
        unit = "resnet/" + "/".join(parts[:2])
        if name.startswith("root_block"):
            tensors["resnet/root_block/standardized_conv2d/kernel"] = value
        elif name.startswith("norm-pre-head"):
            tensors[f"resnet/group_norm/{leaf}"] = value.flatten()
        elif name.startswith("head"):
            kernel = parts[-1] == "kernel"
            tensors[f"resnet/head/conv2d/{parts[-1]}"] = value[None, None] if kernel else value
        elif "conv_proj" in name:
            tensors[f"{unit}/a/proj/standardized_conv2d/kernel"] = value
        elif "gn" in parts[-2]:
            tensors[f"{unit}/{'abc'[int(number) - 1]}/group_norm/{leaf}"] = value.flatten()
        else:
            path = f"{unit}/{'abc'[int(number) - 1]}/standardized_conv2d_{len(tensors)}/kernel"
            tensors[path] = value
    assert_golden("bit_paper", save(tmp_path / "model.npz", tensors))


def test_a_higher_resolution_resizes_the_table_once_the_sources_size_is_told(tmp_path):
    path = save(tmp_path / "model.npz", tensors_of("vt_token"))
    target = replace(config_of("vt_token"), image_size=64, num_classes=9)
    with pytest.raises(ValueError, match=r"25 rows, wanted 64 .*--stage\.init-image-size"):
        vit.import_checkpoint(path, target)
    weights, changes = vit.import_checkpoint(path, target, source_image_size=(32, 48))
    assert "pos_embed 4x6 -> 8x8" in changes
    assert "head 5 -> 9: reset" in changes
    vit.build_model(target).load_state_dict(weights)


def test_the_pre_training_head_goes_when_a_linear_one_is_wanted(tmp_path):
    path = save(tmp_path / "model.npz", tensors_of("vt_token_pre_logits"))
    target = replace(config_of("vt_token_pre_logits"), head="linear")
    _, changes = vit.import_checkpoint(path, target)
    assert "head mlp -> linear: reset" in changes


def test_unknown_missing_and_misshapen_tensors_are_named(tmp_path):
    tensors = tensors_of("vt_token")
    tensors["Transformer/encoderblock_0/Surprise/kernel"] = np.zeros(3)
    with pytest.raises(ValueError, match="Surprise/kernel"):
        vit.import_checkpoint(save(tmp_path / "a.npz", tensors), config_of("vt_token"))

    tensors = tensors_of("vt_token")
    del tensors["Transformer/encoder_norm/bias"]
    with pytest.raises(ValueError, match=r"missing norm\.bias"):
        vit.import_checkpoint(save(tmp_path / "b.npz", tensors), config_of("vt_token"))

    wider = replace(config_of("vt_token"), mlp_dim=128)
    with pytest.raises(ValueError, match=r"mlp_dim 64 into 128.*--stage\.model\.mlp-dim 64"):
        vit.import_checkpoint(save(tmp_path / "c.npz", tensors_of("vt_token")), wider)


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", cls=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        vit.import_checkpoint(tmp_path / "evil.npz", SMALL)
