"""Filters against NumPy's SVD, similarities against NumPy's cosines."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import vit
from vit.learned import (
    missing_filters,
    missing_positions,
    position_similarity,
    position_table,
    principal_filters,
)

SMALL = vit.ViTConfig(
    image_size=(24, 32), patch_size=8, width=32, depth=1, heads=4, mlp_dim=48, num_classes=5
)


def test_principal_filters_are_numpys():
    model = vit.build_model(SMALL)
    found, share = principal_filters(model, 28)
    kernel = model.patch_embed.proj.weight.detach().double().numpy().reshape(32, -1)
    centred = kernel - kernel.mean(0)
    _, singular, components = np.linalg.svd(centred, full_matrices=False)
    assert found.shape == (28, 3, 8, 8)
    for mine, theirs in zip(found.flatten(1).numpy(), components, strict=False):
        assert abs(float(mine @ theirs)) == pytest.approx(1, abs=1e-9)
        assert mine[np.abs(mine).argmax()] > 0
    np.testing.assert_allclose(share.numpy(), (singular**2 / (singular**2).sum())[:28], rtol=1e-9)


def test_there_are_no_more_filters_than_directions():
    model = vit.build_model(replace(SMALL, width=4, heads=1))
    found, share = principal_filters(model, 28)
    assert len(found) == 3  # four points span three directions
    assert share.sum().item() == pytest.approx(1)


def test_a_planted_filter_is_found():
    model = vit.build_model(SMALL)
    stripe = torch.linspace(-1, 1, 8).expand(3, 8, 8)
    kernel = model.patch_embed.proj.weight.data
    kernel.mul_(0.01).add_(torch.linspace(-1, 1, 32)[:, None, None, None] * stripe)
    found, share = principal_filters(model, 1)
    wanted = (stripe / stripe.norm()).double()
    assert (found[0] * wanted).sum().abs().item() == pytest.approx(1, abs=1e-3)
    assert share.item() > 0.99


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"registers": 2},
        {"pos_embed_prefix": False},
        {"pool": "gap"},
        {"pos_embed": "learned-2d"},
        {"pos_embed": "sincos-2d"},
    ],
    ids=str,
)
def test_similarity_is_numpys_cosine_of_what_the_model_adds(changes):
    model = vit.build_model(replace(SMALL, **changes))
    with torch.no_grad():
        table = position_table(model)
        assert table is not None
        added = model.add_tokens(torch.zeros(1, 12, 32))[0, model.num_prefix_tokens :]
    torch.testing.assert_close(table.flatten(0, 1), added)
    found = position_similarity(table).numpy()
    assert found.shape == (3, 4, 3, 4)
    rows = added.double().numpy()
    for a in range(12):
        for b in range(12):
            cosine = rows[a] @ rows[b] / np.linalg.norm(rows[a]) / np.linalg.norm(rows[b])
            assert found[a // 4, a % 4, b // 4, b % 4] == pytest.approx(cosine, abs=1e-9)


def test_what_a_model_has_not_is_said():
    assert missing_filters(SMALL) is None
    assert missing_positions(SMALL) is None
    hybrid = vit.ViTConfig(image_size=64, patch_size=1, stem_blocks=(1, 1), width=32, heads=2)
    assert "feature map" in (missing_filters(hybrid) or "")
    assert missing_positions(hybrid) is None
    for kind, said in (("none", "no position embedding"), ("relative", "pairs of tokens")):
        config = replace(SMALL, pos_embed=kind)
        assert said in (missing_positions(config) or "")
        assert position_table(vit.build_model(config)) is None
    bit = vit.BiTConfig(image_size=32, blocks=(1,))
    assert "BiT" in (missing_filters(bit) or "")
    assert "BiT" in (missing_positions(bit) or "")
