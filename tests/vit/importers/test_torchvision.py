"""torchvision's names, from a model written here with torch's own attention: it cannot be installed
beside the pinned torch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import vit

TINY = vit.ViTConfig(
    image_size=32,
    patch_size=8,
    width=48,
    depth=2,
    heads=3,
    mlp_dim=96,
    num_classes=7,
    gelu="exact",
)
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(48, eps=1e-6), nn.LayerNorm(48, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(48, 3, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(48, 96), nn.GELU(), nn.Dropout(0.0), nn.Linear(96, 48), nn.Dropout(0.0)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        y = self.ln_1(tokens)
        tokens = tokens + self.self_attention(y, y, y, need_weights=False)[0]
        return tokens + self.mlp(self.ln_2(tokens))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, 17, 48))
        self.layers = nn.Sequential()
        for i in range(2):
            self.layers.add_module(f"encoder_layer_{i}", Layer())
        self.ln = nn.LayerNorm(48, eps=1e-6)


class Reference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.empty(1, 1, 48))
        self.conv_proj = nn.Conv2d(3, 48, 8, 8)
        self.encoder = Encoder()
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(48, 7))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv_proj(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1)
        tokens = self.encoder.layers(tokens + self.encoder.pos_embedding)
        return self.heads(self.encoder.ln(tokens)[:, 0])


@pytest.mark.parametrize("mlp_names", ["numbered", "linear"])
def test_a_torchvision_file_gives_its_logits_on_pixels_from_minus_one_to_one(mlp_names, tmp_path):
    theirs = Reference().eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in theirs.named_parameters():
        nn.init.normal_(parameter, std=0.02, generator=generator)
        if "ln" in name and name.endswith("weight"):
            parameter.data += 1
    state = theirs.state_dict()
    if mlp_names == "linear":
        for number, word in (("mlp.0.", "mlp.linear_1."), ("mlp.3.", "mlp.linear_2.")):
            state = {name.replace(number, word): value for name, value in state.items()}
    torch.save(state, tmp_path / "vit.pth")
    weights, changes = vit.import_checkpoint(tmp_path / "vit.pth", TINY)
    assert changes[0] == f"layout torchvision ViT, {len(state)} tensors"
    assert changes[1] == "not in the file, taken from the stage: heads 3"
    assert changes[2].startswith("patch_embed: rewritten from pixels of mean (0.485")
    ours = vit.build_model(TINY).eval()
    ours.load_state_dict(weights)
    pixels = torch.rand(2, 3, 32, 32, generator=generator)
    torch.testing.assert_close(
        ours(2 * pixels - 1), theirs((pixels - MEAN) / STD), atol=1e-5, rtol=0
    )


def test_its_gelu_is_told_apart(tmp_path):
    torch.save(Reference().state_dict(), tmp_path / "vit.pth")
    _, changes = vit.import_checkpoint(tmp_path / "vit.pth", replace(TINY, gelu="tanh"))
    assert "gelu exact -> tanh" in changes
