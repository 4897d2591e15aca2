"""Attention maps against the blocks' own output; distance and rollout against slow float64."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import vit
from vit.attention import (
    attention_maps,
    attention_rollout,
    attention_weights,
    mean_attention_distance,
    patch_distances,
    pooling_weights,
    uniform_distance,
)
from vit.blocks import Attention
from vit.model import ViT

SMALL = vit.ViTConfig(
    image_size=(24, 32), patch_size=8, width=32, depth=3, heads=4, mlp_dim=48, num_classes=5
)
KINDS = [
    {"pool": "token"},
    {"pool": "token", "registers": 2},
    {"pool": "gap"},
    {"pool": "gap", "registers": 1, "pos_embed": "sincos-2d"},
    {"pool": "map", "pos_embed": "learned-2d"},
    {"pool": "token", "pos_embed": "relative"},
    {"pool": "gap", "registers": 2, "pos_embed": "relative-bias"},
    {"pool": "token", "rotary": "axial", "qk_norm": True, "layer_scale": True},
    {"pool": "gap", "registers": 1, "rotary": "dinov3", "pre_norm": True, "mlp": "swiglu"},
]


def sharp_model(**changes) -> ViT:
    """A float64 model whose attention is far from uniform, unlike a fresh one's."""
    model = vit.build_model(replace(SMALL, **changes)).double().eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if name.endswith(("qkv.weight", "q.weight", "kv.weight", "rel_pos", "bias_table")):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


def attentions(model: ViT) -> list[Attention]:
    return [module for module in model.modules() if isinstance(module, Attention)]


def images(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 24, 32, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_the_maps_give_the_blocks_own_attention_output(changes):
    model = sharp_model(**changes)
    seen: list[tuple[Tensor, Tensor]] = []  # input and output of each block's attention

    def keep(_: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        seen.append((given[0], output))

    for attn in attentions(model):
        attn.register_forward_hook(keep)
    with torch.no_grad():
        model.forward_features(images())
        maps = list(attention_maps(model, images()))
    assert len(maps) == model.config.depth
    for weights, (tokens, output), attn in zip(maps, seen, attentions(model), strict=False):
        assert weights.shape == (2, 4, model.config.num_tokens, model.config.num_tokens)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        value = attn.qkv(tokens)[..., 64:].unflatten(-1, (4, 8)).transpose(1, 2)  # [B, h, T, d]
        mixed = attn.proj((weights @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixed, output, rtol=1e-9, atol=1e-9)
    assert max(weights.amax() for weights in maps) > 0.5  # not the uniform ones of a fresh model


def test_attention_of_a_model_in_training_or_of_other_images_is_refused():
    model = sharp_model()
    with pytest.raises(ValueError, match=r"call model.eval"):
        next(attention_maps(model.train(), images()))
    with pytest.raises(ValueError, match=r"images have \(32, 24\) pixels"):
        next(attention_maps(model.eval(), images().transpose(2, 3)))


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_mean_attention_distance_is_that_of_loops(prefix):
    rows, columns, pixels = 3, 4, 8
    length = prefix + rows * columns
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, length, length, generator=generator, dtype=torch.float64) * 3
    weights = logits.softmax(-1)
    distances = patch_distances((rows, columns), pixels)
    found = mean_attention_distance(weights, distances, num_prefix_tokens=prefix)
    for image in range(2):
        for head in range(3):
            total = 0.0
            for a in range(rows * columns):
                ya, xa = divmod(a, columns)
                near = far = 0.0
                for b in range(rows * columns):
                    yb, xb = divmod(b, columns)
                    w = weights[image, head, prefix + a, prefix + b].item()
                    far += w * pixels * math.hypot(ya - yb, xa - xb)
                    near += w
                total += far / near
            assert found[image, head].item() == pytest.approx(total / 12, rel=1e-12)


def test_a_head_that_looks_at_itself_looks_nowhere_and_a_uniform_one_at_the_mean():
    distances = patch_distances((5, 5), 16)
    itself = torch.eye(26)[None, None]
    assert mean_attention_distance(itself, distances, num_prefix_tokens=1).item() == 0
    uniform = torch.full((1, 1, 26, 26), 1 / 26)
    found = mean_attention_distance(uniform, distances, num_prefix_tokens=1).item()
    assert found == pytest.approx(uniform_distance(distances))
    assert distances[0, 24].item() == pytest.approx(16 * 4 * 2**0.5)


def test_a_head_that_rests_on_the_class_token_keeps_its_distance():
    distances = patch_distances((1, 2), 10)
    weights = torch.tensor([[1, 0, 0], [0.98, 0, 0.02], [0.98, 0.02, 0]])[None, None]
    found = mean_attention_distance(weights, distances, num_prefix_tokens=1)
    assert found.item() == pytest.approx(10)


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_rollout_is_the_explicit_product(changes):
    model, batch = sharp_model(**changes), images()
    found = attention_rollout(model, batch)
    tokens, prefix = model.config.num_tokens, model.num_prefix_tokens
    for i in range(len(batch)):
        one = batch[i : i + 1]
        flow = torch.eye(tokens, dtype=torch.float64)
        for weights in reversed(list(attention_maps(model, one))):
            step = weights[0].mean(0) + torch.eye(tokens, dtype=torch.float64)
            flow = flow @ (step / step.sum(-1, keepdim=True))
        if model.config.pool == "token":
            row = flow[0]
        elif model.config.pool == "gap":
            row = flow[prefix:].mean(0)
        else:
            assert model.attn_pool is not None
            with torch.no_grad():
                probe = pooling_weights(model.attn_pool, model.forward_features(one))
            row = probe[0].mean(0)[0] @ flow
        assert row.sum().item() == pytest.approx(1)
        torch.testing.assert_close(found[i].flatten(), row[prefix:], rtol=1e-10, atol=1e-12)
    assert found.shape == (2, 3, 4)
    assert not torch.allclose(found[0], found[1])


def test_pooling_weights_give_the_pools_own_output():
    model = sharp_model(pool="map")
    pool = model.attn_pool
    assert pool is not None
    with torch.no_grad():
        tokens = model.forward_features(images())
        weights = pooling_weights(pool, tokens)  # [B, h, 1, T]
        value = pool.kv(tokens)[..., 32:].unflatten(-1, (4, 8)).transpose(1, 2)
        pooled = pool.proj((weights @ value).flatten(1))
        expected = pooled + pool.mlp(pool.norm(pooled))
        torch.testing.assert_close(pool(tokens), expected, rtol=1e-10, atol=1e-10)


def test_weights_of_one_module_alone_match_softmax():
    model = sharp_model()
    tokens = torch.randn(1, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    attn = attentions(model)[0]
    with torch.no_grad():
        q, k, _ = attn.qkv(tokens)[0].split(32, dim=-1)
        for head in range(4):
            cut = slice(8 * head, 8 * head + 8)
            logits = q[:, cut] @ k[:, cut].T / math.sqrt(8)
            expected = logits.exp() / logits.exp().sum(-1, keepdim=True)
            found = attention_weights(attn, tokens)[0, head]
            torch.testing.assert_close(found, expected)
