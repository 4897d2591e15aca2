"""The masked autoencoder is that of arXiv:2111.06377, as Hugging Face has it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import vit
from vit.objectives import Asked, Masked, is_pretext, objective_of
from vit.objectives.mae import Mae, MaskedAutoencoder
from vit.objectives.patches import painted, patch_pixels

CONFIG = vit.ViTConfig(
    image_size=32,
    patch_size=8,
    width=64,
    depth=2,
    heads=4,
    mlp_dim=128,
    gelu="exact",
    norm_eps=1e-6,
    pos_embed="sincos-2d",
    num_classes=0,
)
MASKED = Masked(decoder_width=32, decoder_depth=2, decoder_heads=4)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def keys(samples: int) -> Tensor:
    index = torch.arange(samples)
    return vit.sample_keys(seed=0, step=-1, epoch=torch.zeros_like(index), index=index)


def asked_and_network(
    images: Tensor, masked: Masked = MASKED
) -> tuple[Mae, Asked, MaskedAutoencoder]:
    objective = objective_of("mae", CONFIG, masked)
    assert isinstance(objective, Mae)
    asked = objective.ask(images, {}, keys(len(images)), training=True)
    return objective, asked, objective.network(seed=2)


def theirs(network: MaskedAutoencoder, *, normalize: bool) -> Any:
    """Hugging Face's model with the same weights."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            image_size=32,
            patch_size=8,
            layer_norm_eps=1e-6,
            mask_ratio=0.75,
            norm_pix_loss=normalize,
            decoder_hidden_size=32,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=128,
        )
    )
    state = dict(network.state_dict())
    parts = {"": ("vit.layers", "vit"), "pretext.": ("decoder.decoder_layers", "decoder")}
    found: dict[str, Tensor] = {}
    blocks = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    known = set(model.state_dict())
    for ours, (their_blocks, _) in parts.items():
        for at in range(2):
            for leaf in ("weight", "bias"):
                for a, b in blocks.items():
                    found[f"{their_blocks}.{at}.{b}.{leaf}"] = state[
                        f"{ours}blocks.{at}.{a}.{leaf}"
                    ]
                qkv = state[f"{ours}blocks.{at}.attn.qkv.{leaf}"].chunk(3)
                for name, part in zip(("q_proj", "k_proj", "v_proj"), qkv, strict=True):
                    found[f"{their_blocks}.{at}.attention.{name}.{leaf}"] = part
    for leaf in ("weight", "bias"):
        found[f"vit.embeddings.patch_embeddings.projection.{leaf}"] = state[
            f"patch_embed.proj.{leaf}"
        ]
        found[f"vit.layernorm.{leaf}"] = state[f"norm.{leaf}"]
        found[f"decoder.decoder_embed.{leaf}"] = state[f"pretext.embed.{leaf}"]
        found[f"decoder.decoder_norm.{leaf}"] = state[f"pretext.norm.{leaf}"]
        found[f"decoder.decoder_pred.{leaf}"] = state[f"pretext.pixels.{leaf}"]
    found["vit.embeddings.cls_token"] = state["cls_token"]
    found["decoder.mask_token"] = state["pretext.mask_token"]
    assert network.pos_table is not None
    for name, table in (
        ("vit.embeddings.position_embeddings", network.pos_table),
        ("decoder.decoder_pos_embed", network.pretext.pos_table),
    ):
        found[name] = torch.nn.functional.pad(table, (0, 0, 1, 0))  # none for the class token
    assert set(found) == known, set(found) ^ known
    model.load_state_dict(found)
    return model.train()


@pytest.mark.parametrize("normalize", [True, False])
def test_loss_and_gradients_are_those_of_hugging_face(images: Tensor, normalize: bool) -> None:
    masked = replace(MASKED, normalize=normalize)
    objective, asked, network = asked_and_network(images, masked)
    with torch.no_grad():  # biases and the class token begin at zero: make them count
        for parameter in network.parameters():
            if parameter.ndim == 1 or parameter.shape[:2] == (1, 1):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    network.train()
    loss = objective.loss(network(images, None, *asked.hints), asked.targets)
    loss.backward()
    order = asked.hints[0]
    noise = order.argsort(dim=1)  # theirs keeps the lowest, ours hides the first
    noise = noise.max() - noise
    model = theirs(network, normalize=normalize)
    other = model(images, noise=noise.float()).loss
    other.backward()
    assert loss.item() == pytest.approx(other.item(), abs=1e-6)
    for ours, their in (
        (network.patch_embed.proj, model.vit.embeddings.patch_embeddings.projection),
        (network.pretext.embed, model.decoder.decoder_embed),
        (network.get_submodule("blocks.0.mlp.fc1"), model.vit.layers[0].mlp.fc1),
    ):
        torch.testing.assert_close(ours.weight.grad, their.weight.grad, atol=1e-6, rtol=1e-4)


def test_the_encoder_starts_as_it_would_with_labels_and_gives_the_same_features(
    images: Tensor,
) -> None:
    _, _, network = asked_and_network(images)
    plain = vit.build_model(CONFIG, seed=2)
    state = network.state_dict()
    assert {name for name in state if not is_pretext(name)} == set(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(state[name], value), name
    assert torch.equal(network.eval()(images), plain.eval()(images))


def test_hidden_patches_reach_the_loss_as_targets_alone(images: Tensor) -> None:
    _, asked, network = asked_and_network(images)
    order = asked.hints[0]
    other = painted(images, order[:, :12], torch.ones(5, 12, 192), CONFIG)
    assert not torch.equal(other, images)
    network.eval()
    assert torch.equal(network(images, None, order), network(other, None, order))


def test_painting_the_right_pixels_gives_the_image_back(images: Tensor) -> None:
    where = torch.tensor([[3, 0]]).expand(5, -1)
    pixels = patch_pixels(images, CONFIG)[:, [3, 0]]
    assert torch.equal(painted(images, where, pixels, CONFIG), images)


def test_the_picture_of_a_perfect_answer_is_the_image(images: Tensor) -> None:
    objective, asked, _ = asked_and_network(images)
    first, seen, made = objective.picture(asked, asked.targets)
    torch.testing.assert_close(made, first, atol=1e-5, rtol=0)
    grey = (patch_pixels(seen, CONFIG) == 0).all(dim=2).sum(dim=1)
    assert grey.tolist() == [12] * 5


def test_bfloat16_answers_are_near_those_of_float32(images: Tensor) -> None:
    objective, asked, network = asked_and_network(images)
    exact = objective.loss(network(images, None, *asked.hints), asked.targets)
    rounded = network.to(torch.bfloat16)(images.to(torch.bfloat16), None, *asked.hints)
    loss = objective.loss(rounded.float(), asked.targets).item()
    assert loss == pytest.approx(exact.item(), rel=0.02)
