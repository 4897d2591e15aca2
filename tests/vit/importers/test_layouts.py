import json
from pathlib import Path

import pytest
import torch

import vit
from vit.importers.layouts import LAYOUTS, sniff

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "flax_logits.json").read_text())
NAMES = {
    "vision_transformer/big_vision": list(GOLDEN["bv_map_learn"]["tensors"]),
    "BiT": ["resnet/root_block/standardized_conv2d/kernel", "resnet/head/conv2d/bias"],
    "BiT of big_vision": list(GOLDEN["bit_paper"]["tensors"]),
    "Hugging Face ViT": ["vit.embeddings.patch_embeddings.projection.weight", "classifier.bias"],
    "Hugging Face CLIP or SigLIP": ["embeddings.patch_embedding.weight", "post_layernorm.bias"],
    "Hugging Face DINOv3": ["embeddings.patch_embeddings.weight", "layer.0.norm1.weight"],
    "open_clip": ["class_embedding", "conv1.weight", "transformer.resblocks.0.ln_1.weight"],
    "torchvision ViT": ["class_token", "encoder.layers.encoder_layer_0.ln_1.weight"],
    "mmpretrain ViT": ["cls_token", "layers.0.ln1.weight", "layers.0.attn.qkv.weight"],
    "timm ViT": list(vit.build_model(vit.VARIANTS["vit_ti16"], device="meta").state_dict()),
    "timm BiT": list(vit.build_model(vit.VARIANTS["bit_r50x1"], device="meta").state_dict()),
}


@pytest.mark.parametrize("layout", [layout.name for layout in LAYOUTS])
def test_each_layout_is_recognised_and_no_other(layout):
    assert sniff(NAMES[layout]).name == layout


def test_a_timm_hybrid_is_a_timm_vit():
    names = vit.build_model(vit.VARIANTS["r50_vit_b16"], device="meta").state_dict()
    assert sniff(names).name == "timm ViT"


def test_an_unknown_layout_lists_the_known_ones_and_what_was_found():
    with pytest.raises(ValueError, match=r"none fits \['conv1\.weight'\]") as error:
        sniff(["conv1.weight"])
    assert all(layout.name in str(error.value) for layout in LAYOUTS)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"blocks.0.attn.qkv.weight": 3}}])
def test_a_file_without_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt"):
        vit.import_checkpoint(tmp_path / "odd.pt", vit.ViTConfig())


def test_code_in_a_pickle_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(vit.BadCheckpoint, match=r"pickled \S*open, and unpickling runs code"):
        vit.import_checkpoint(tmp_path / "evil.pt", vit.ViTConfig())
    assert not (tmp_path / "ran").exists()


def test_another_kind_of_file_and_no_file_are_told_apart(tmp_path):
    (tmp_path / "model.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"wanted one of .* found '\.h5'"):
        vit.import_checkpoint(tmp_path / "model.h5", vit.ViTConfig())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        vit.import_checkpoint(tmp_path / "nowhere.npz", vit.ViTConfig())
