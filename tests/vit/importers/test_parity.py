"""timm's models of today: one name per kind, two blocks, random weights, and the same results here.

`NAMES` is also the table of docs/train-on-my-data.md.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vit
from tests.vit.importers.public import imported
from tests.vit.support.peers import import_timm, randomize

if find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)
timm = import_timm()

NAMES = (
    "vit_tiny_patch16_224",
    "vit_mediumd_patch16_reg4_gap_256",
    "vit_base_patch16_224_miil",
    "vit_base_patch32_clip_224",
    "vit_base_patch32_clip_quickgelu_224",
    "vit_base_patch16_siglip_224",
    "vit_so400m_patch14_siglip_384",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_giant_patch14_dinov2",
    "beit_base_patch16_224",
    "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "eva_giant_patch14_224",
    "eva02_tiny_patch14_224",
    "eva02_base_patch14_224",
    "eva02_base_patch16_clip_224",
    "vit_medium_patch16_rope_reg1_gap_256",
    "vit_mediumd_patch16_rope_reg1_gap_256",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_dinov3_qkvb",
    "vit_small_plus_patch16_dinov3",
)
PAGE = Path(__file__).parents[3] / "docs" / "train-on-my-data.md"
HALF = (0.5, 0.5, 0.5)


def timm_named(name: str) -> Any:
    """timm's model of this name with two blocks, a 3x4 grid, 5 classes and random weights.

    Wide ones have 8 channels a head, to be quick.
    """
    with torch.device("meta"):
        whole = timm.create_model(name, depth=1)
    heads = whole.blocks[0].attn.num_heads
    width = whole.embed_dim if whole.embed_dim < 768 else 8 * heads
    patch = int(name.split("patch")[1].split("_")[0])
    rest = 4 if name == "vit_so400m_patch14_siglip_384" else 0
    size = (3 * patch + rest, 4 * patch)
    model = timm.create_model(name, depth=2, embed_dim=width, img_size=size, num_classes=5)
    randomize(model)
    model.pretrained_cfg = model.pretrained_cfg | {"mean": HALF, "std": HALF}
    return model.eval()


def saved(model: nn.Module, folder: Path) -> Path:
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return folder


def step(model: nn.Module, images: Tensor) -> None:
    """One step of SGD on a loss that asks all logits for something."""
    logits = model(images)
    wanted = torch.linspace(-1, 1, logits.numel()).view_as(logits)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    (logits - wanted).square().sum().backward()
    optimizer.step()


def test_the_page_lists_the_models_that_are_tested():
    assert tuple(re.findall(r"^\| `(\w+_patch\d+_\w+)` \|", PAGE.read_text(), re.M)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_timms_is_the_same_model_here(name, tmp_path):
    theirs = timm_named(name)
    config = vit.infer_config(saved(theirs, tmp_path / "timm")).config
    ours, _ = imported(tmp_path / "timm", config)
    assert isinstance(config, vit.ViTConfig)
    assert isinstance(ours, vit.ViT)
    assert ours.cost().parameters == sum(p.numel() for p in theirs.parameters())

    images = torch.rand(2, 3, *config.image_hw, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        features, wanted = ours.forward_features(images), theirs.forward_features(images)
        torch.testing.assert_close(features, wanted, atol=1e-5, rtol=0)
        logits, wanted = ours(images), theirs(images)
        torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0)

    vit.export_timm(ours.state_dict(), config, tmp_path / "back")
    assert vit.infer_config(tmp_path / "back").config == config
    again, _ = vit.import_checkpoint(tmp_path / "back", config)
    assert all(torch.equal(again[key], tensor) for key, tensor in ours.state_dict().items())
    back = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(back(images), wanted, atol=1e-5, rtol=0)

    for model in (ours, theirs):
        step(model, images)
    stepped, _ = vit.import_checkpoint(saved(theirs, tmp_path / "stepped"), config)
    for key, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, stepped[key], atol=1e-5, rtol=1e-5)
        assert not torch.equal(tensor, again[key]), key
