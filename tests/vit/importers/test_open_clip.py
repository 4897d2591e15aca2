"""open_clip's files give the features that timm computes of them."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vit
from tests.vit.importers.public import imported, save
from tests.vit.support.peers import images_for, import_timm, randomize

if find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)
timm = import_timm()
WIDTH, HALF = 128, (0.5, 0.5, 0.5)
_NAMES = (
    (r"cls_token", "class_embedding"),
    (r"pos_embed", "positional_embedding"),
    (r"patch_embed\.proj\.weight", "conv1.weight"),
    (r"norm_pre\.", "ln_pre."),
    (r"norm\.(weight|bias)", r"ln_post.\1"),
    (r"blocks\.(\d+)\.norm([12])", r"transformer.resblocks.\1.ln_\2"),
    (r"blocks\.(\d+)\.attn\.qkv\.", r"transformer.resblocks.\1.attn.in_proj_"),
    (r"blocks\.(\d+)\.attn\.proj", r"transformer.resblocks.\1.attn.out_proj"),
    (r"blocks\.(\d+)\.mlp\.fc1", r"transformer.resblocks.\1.mlp.c_fc"),
    (r"blocks\.(\d+)\.mlp\.fc2", r"transformer.resblocks.\1.mlp.c_proj"),
)


def timms(name: str = "vit_base_patch32_clip_224") -> Any:
    model = timm.create_model(
        name, img_size=96, embed_dim=WIDTH, depth=2, num_heads=2, num_classes=0
    ).eval()
    randomize(model)
    return model


def open_clips(model: Any) -> dict[str, Tensor]:
    """The state dict of a whole CLIP whose image tower is timm's model."""
    named: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        (there,) = (re.sub(f"^{a}", b, name) for a, b in _NAMES if re.match(a, name))
        named[f"visual.{there}"] = tensor
    named["visual.class_embedding"] = named["visual.class_embedding"].flatten()
    named["visual.positional_embedding"] = named["visual.positional_embedding"][0]
    text = {
        "positional_embedding": torch.ones(77, 64),
        "text_projection": torch.ones(64, 64),
        "token_embedding.weight": torch.ones(100, 64),
        "transformer.resblocks.0.attn.in_proj_weight": torch.ones(192, 64),
        "ln_final.weight": torch.ones(64),
        "logit_scale": torch.ones(()),
    }
    return {**named, **text, "visual.proj": torch.ones(WIDTH, 64)}


@pytest.mark.parametrize("quick", [False, True], ids=["exact", "quick"])
def test_the_features_of_a_folder_are_timms(quick: bool, tmp_path: Path) -> None:
    theirs = timms("vit_base_patch32_clip_quickgelu_224" if quick else "vit_base_patch32_clip_224")
    torch.save(open_clips(theirs), tmp_path / "open_clip_pytorch_model.bin")
    vision = {"image_size": 96, "layers": 2, "width": WIDTH, "patch_size": 32}
    pixels = {"mean": HALF, "std": HALF, "interpolation": "bicubic", "resize_mode": "shortest"}
    described = {
        "model_cfg": {"embed_dim": 64, "vision_cfg": vision, "quick_gelu": quick},
        "preprocess_cfg": pixels,
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    found = vit.infer_config(tmp_path)
    assert isinstance(found.config, vit.ViTConfig)
    assert (found.config.heads, found.config.gelu) == (2, "quick" if quick else "exact")
    assert (found.mean, str(found.crop)) == (HALF, "center 1")
    ours, _ = imported(tmp_path, found.config)
    images = images_for(found.config)
    assert isinstance(ours, vit.ViT)
    with torch.no_grad():
        wanted = theirs.forward_features(images)
        torch.testing.assert_close(ours.forward_features(images), wanted, atol=1e-5, rtol=0)


def test_timm_reads_these_names_as_the_same_model() -> None:
    """The names above are open_clip's: timm's own reader of them gives its model back."""
    theirs = timms()
    state = {k: v for k, v in open_clips(theirs).items() if k != "visual.proj"}
    read = timm.models.vision_transformer.checkpoint_filter_fn(state, timms())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(read[name].reshape(tensor.shape), tensor), name


def test_what_a_bare_file_leaves_open_is_asked_for_or_said(tmp_path: Path) -> None:
    path = save(open_clips(timms()), tmp_path / "clip.pt")
    with pytest.raises(vit.BadCheckpoint, match=r"number of heads.*--stage\.model\.heads"):
        vit.infer_config(path)
    found = vit.infer_config(path, heads=2)
    assert any("--stage.model.gelu quick" in note for note in found.notes)
    assert found.mean == (0.48145466, 0.4578275, 0.40821073)


def test_a_config_file_that_cannot_be_understood_is_named(tmp_path: Path) -> None:
    torch.save(open_clips(timms()), tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}}))
    with pytest.raises(vit.BadCheckpoint, match=r"open_clip_config\.json cannot be understood"):
        vit.infer_config(tmp_path)
