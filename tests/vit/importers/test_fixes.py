"""What models here have no place for is folded into what they have: the same logits as timm's."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

import vit
from tests.vit.importers.public import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TINY,
    assert_same_logits,
    imported,
    save,
    tiny_timm,
)
from tests.vit.support.peers import import_timm, randomize

if find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)
timm = import_timm()


@pytest.mark.parametrize("names", ["timm", "deit3"])
def test_layer_scale_is_folded(names, tmp_path):
    theirs = tiny_timm(init_values=0.1)
    state = theirs.state_dict()
    if names == "deit3":  # the authors' own
        renamed = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}
        state = {
            name.replace(".".join(name.split(".")[2:]), renamed.get(name.split(".", 2)[-1], ""))
            if name.endswith("gamma")
            else name: tensor
            for name, tensor in state.items()
        }
    path = save(state, tmp_path / "scaled.pth")
    ours, notes = imported(path, TINY)
    assert "LayerScale folded into attn.proj and mlp.fc2 (4 tensors)" in notes
    assert_same_logits(ours, theirs)
    kept, notes = imported(path, replace(TINY, layer_scale=True))
    assert not any("LayerScale" in note for note in notes)
    assert_same_logits(kept, theirs)


def test_missing_biases_are_zeros(tmp_path):
    theirs = tiny_timm(qkv_bias=False)
    state = theirs.state_dict()
    del state["patch_embed.proj.bias"]
    torch.nn.init.zeros_(theirs.patch_embed.proj.bias)
    ours, notes = imported(save(state, tmp_path / "bare.pth"), TINY)
    assert "attn.qkv.bias: not in the checkpoint, set to zeros" in notes
    assert "patch_embed.proj.bias: not in the checkpoint, set to zeros" in notes
    assert_same_logits(ours, theirs)


def test_a_distillation_token_is_a_register(tmp_path):
    theirs = timm.models.deit.VisionTransformerDistilled(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2, num_classes=7
    ).eval()
    randomize(theirs)
    path = save({"model": theirs.state_dict()}, tmp_path / "deit.pth")
    ours, notes = imported(path, replace(TINY, registers=1))
    both, _ = imported(path, replace(TINY, distilled=True))
    assert_same_logits(both, theirs)
    assert "the distillation token became a register" in notes
    assert "head_dist left out: logits are those of the class token's head alone" in notes
    torch.nn.init.zeros_(theirs.head_dist.weight)
    torch.nn.init.zeros_(theirs.head_dist.bias)
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    # timm returns the mean of its two heads
    torch.testing.assert_close(ours(pixels), 2 * theirs(pixels), atol=1e-5, rtol=0)
    with pytest.raises(vit.BadCheckpoint, match=r"--stage\.model\.registers 1"):
        vit.import_checkpoint(path, TINY)


@pytest.mark.parametrize("fc_norm", [True, False])
@pytest.mark.parametrize("registers", [0, 2])
def test_a_class_token_that_the_head_does_not_read_is_a_register(fc_norm, registers, tmp_path):
    theirs = tiny_timm(global_pool="avg", fc_norm=fc_norm, reg_tokens=registers)
    path = save(theirs.state_dict(), tmp_path / "mean.pth")
    config = replace(TINY, pool="gap", registers=registers + 1, fc_norm=fc_norm)
    ours, notes = imported(path, config)
    assert any(note.startswith("pool gap, as requested") for note in notes)
    assert_same_logits(ours, theirs)


def test_fc_norm_beside_a_class_token_is_not_guessed_at(tmp_path):
    path = save(tiny_timm(global_pool="avg").state_dict(), tmp_path / "mae_finetuned.pth")
    with pytest.raises(
        vit.BadCheckpoint, match=r"class token or the.*gap --stage\.model\.registers 1"
    ):
        vit.import_checkpoint(path, replace(TINY, fc_norm=True))


def test_registers_without_rows_of_their_own_are_read_as_dinov2_means_them(tmp_path):
    theirs = tiny_timm(reg_tokens=2, no_embed_class=True)
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    row = torch.randn(1, 1, 48)
    state["pos_embed"] = torch.cat([row, state["pos_embed"]], dim=1)
    state["register_tokens"] = state.pop("reg_token")
    theirs.cls_token.data += row
    config = replace(TINY, registers=2)
    ours, notes = imported(save(state, tmp_path / "dinov2.pth"), config)
    assert "pos_embed: the class token's row was added to the class token" in notes
    assert_same_logits(ours, theirs)


def test_given_means_and_deviations_are_folded(tmp_path):
    theirs = tiny_timm()
    path = save({"model": theirs.state_dict()}, tmp_path / "deit_tiny.pth")
    _, notes = imported(path, TINY)
    assert any("--stage.init-mean and --stage.init-std" in note for note in notes)
    ours, notes = imported(path, TINY, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert not any("--stage.init-mean" in note for note in notes)
    assert_same_logits(ours, theirs, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def test_a_grey_model_sees_grey_pictures_in_three_channels(tmp_path):
    theirs = tiny_timm(in_chans=1)
    path = save(theirs.state_dict(), tmp_path / "grey.pth")
    ours, notes = imported(path, TINY, mean=(0.3,), std=(0.2,))
    assert "patch_embed: 1 channels repeated to 3" in notes
    pixels = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(
        ours((2 * pixels - 1).expand(-1, 3, -1, -1)), theirs((pixels - 0.3) / 0.2),
        atol=1e-5, rtol=0,
    )  # fmt: skip


def test_a_coloured_model_sees_the_same_grey_in_one_channel(tmp_path):
    theirs = tiny_timm()
    path = save(theirs.state_dict(), tmp_path / "colour.pth")
    ours, notes = imported(path, replace(TINY, in_channels=1))
    assert "patch_embed: 3 channels summed into 1" in notes
    pixels = torch.rand(2, 1, 32, 32) * 2 - 1
    torch.testing.assert_close(
        ours(pixels), theirs(pixels.expand(-1, 3, -1, -1)), atol=1e-5, rtol=0
    )


def test_the_resolution_of_a_bare_file_is_a_square_and_said(tmp_path):
    path = save(tiny_timm(img_size=48).state_dict(), tmp_path / "vit.pth")
    _, notes = imported(path, TINY)
    assert (
        "pos_embed has 37 rows: assumed a square grid 6x6 (48 pixels) - for another set"
        " --stage.init-image-size" in notes
    )
    assert "pos_embed 6x6 -> 4x4" in notes
    path = save(tiny_timm(img_size=(48, 64)).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(vit.BadCheckpoint, match=r"49 rows.*--stage\.init-image-size"):
        vit.import_checkpoint(path, replace(TINY, image_size=64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre_norm": True}, r"pre_norm True into False.*--stage\.model\.pre-norm"),
        ({"qk_norm": True}, r"qk_norm True into False.*--stage\.model\.qk-norm"),
        ({"attn_layer": "diff"}, "differential attention, which is not supported"),
        ({"embed_dim": 96}, r"width 96 into 48.*--stage\.model\.width 96"),
        ({"depth": 3}, r"depth 3 into 2.*--stage\.model\.depth 3"),
        (
            {"mlp_layer": timm.layers.SwiGLUPacked, "mlp_ratio": 4},
            r"mlp swiglu into gelu.*--stage\.model\.mlp swiglu",
        ),
    ],
    ids=["norm_pre", "qk_norm", "diff", "width", "depth", "swiglu"],
)
def test_what_does_not_fit_is_said_shortly_and_with_its_reason(change, message, tmp_path):
    path = save(tiny_timm(**change).state_dict(), tmp_path / "other.pth")
    with pytest.raises(vit.BadCheckpoint, match=message) as error:
        vit.import_checkpoint(path, TINY)
    assert len(str(error.value).removeprefix(str(tmp_path))) < 500
