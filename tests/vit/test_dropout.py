"""Masks of dropout and stochastic depth belong to the sample, however a batch is cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vit
from vit.dropout import DropPath, SampleDropout, layer_draws

CONFIG = vit.ViTConfig(
    image_size=16,
    patch_size=4,
    width=32,
    depth=2,
    heads=2,
    mlp_dim=64,
    num_classes=4,
    dropout=0.1,
    drop_path=0.1,
)
OPTIM = vit.OptimConfig(peak_lr=1e-2, warmup_steps=0, schedule="constant")
GLOBAL_BATCH = 8
CODES = [-783406921, -1326136570, 99660839, -1533234555]
FACTORS = [[2013733995, 1621215495], [1967366395, -643589113], [1838132741, -1660136153]]
OFFSETS = [[-1446488742, 803911376], [67040195, 1309229488], [-1628695222, -614722064]]


def keys_of(samples: int, *, step: int = 0, epoch: int = 0, seed: int = 0) -> Tensor:
    index = torch.arange(samples)
    return vit.sample_keys(seed=seed, step=step, epoch=torch.full_like(index, epoch), index=index)


def masks(keys: Tensor, *, layer: int = 0, elements: int = 1000, rate: float = 0.1) -> Tensor:
    return layer_draws(keys, layers=20, elements=elements).kept(layer, elements, rate)


def batch_of(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and keys of the global batch of a step."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(GLOBAL_BATCH, 3, 16, 16, generator=generator)
    index = torch.arange(step * GLOBAL_BATCH, (step + 1) * GLOBAL_BATCH)
    keys = vit.sample_keys(seed=3, step=step, epoch=torch.zeros_like(index), index=index)
    return images, index % 4, keys


def trained(
    *, micro: int, workers: int = 1, checkpointing: bool = False
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Weights after two steps on so many (simulated) workers, and what was dropped in each."""
    model = vit.build_model(CONFIG)
    nn.init.normal_(model.get_parameter("head.weight"), generator=torch.Generator().manual_seed(1))
    model.set_grad_checkpointing(checkpointing)
    optimizer = vit.build_optimizer(vit.param_groups(model, OPTIM), OPTIM)
    dropped: list[Tensor] = []  # of each call in a forward pass, in their order
    for module in model.modules():
        if isinstance(module, SampleDropout | DropPath):
            module.register_forward_hook(lambda _m, _i, out: dropped.append(out.eq(0)))
    seen: list[Tensor] = []
    for step in range(2):
        optimizer.zero_grad()
        parts: list[list[Tensor]] = []
        for share in zip(*(column.chunk(workers) for column in batch_of(step)), strict=True):
            for x, y, k in zip(*(column.split(micro) for column in share), strict=True):
                dropped.clear()
                loss = vit.loss_fn("softmax", model(x, k), y)
                parts.append(list(dropped))
                (loss * len(x) / GLOBAL_BATCH).backward()
        seen += [torch.cat(calls) for calls in zip(*parts, strict=True)]
        optimizer.step()
    return dict(model.state_dict()), seen


@pytest.mark.parametrize(("micro", "workers"), [(2, 1), (8, 2), (1, 4)])
def test_no_cut_of_the_batch_changes_a_mask_or_the_training(micro: int, workers: int) -> None:
    expected, expected_masks = trained(micro=8)
    found, found_masks = trained(micro=micro, workers=workers)
    assert any(mask.any() for mask in expected_masks)
    for mask, same in zip(found_masks, expected_masks, strict=True):
        assert torch.equal(mask, same)
    for name, value in expected.items():
        if not name.endswith("attn.qkv.bias"):  # a key's bias has no gradient but rounding
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_a_block_that_is_computed_again_drops_the_same() -> None:
    expected, _ = trained(micro=4)
    found, _ = trained(micro=4, checkpointing=True)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_loop_without_keys_draws_them_and_can_be_repeated() -> None:
    model = vit.build_model(CONFIG)
    images, _, _ = batch_of(0)
    first, second = model.forward_features(images), model.forward_features(images)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    first = model.forward_features(images)
    torch.manual_seed(5)
    assert torch.equal(model.forward_features(images), first)


def test_evaluation_drops_nothing() -> None:
    images, _, keys = batch_of(0)
    model = vit.build_model(CONFIG).eval()
    plain = vit.build_model(replace(CONFIG, dropout=0.0, drop_path=0.0))
    assert torch.equal(model(images, keys), plain.eval()(images))
    assert torch.equal(plain.train()(images, keys), plain(images))  # no rate, no operation


def test_a_mask_is_the_one_of_the_day_of_writing() -> None:
    """Written down: a resumed stage must meet the masks it began with, on any machine."""
    draws = layer_draws(keys_of(3, step=7, epoch=1, seed=5), layers=2, elements=4)
    assert draws.codes.tolist() == CODES
    assert draws.factors.tolist() == FACTORS
    assert draws.offsets.tolist() == OFFSETS


def test_the_arithmetic_is_that_of_unsigned_integers() -> None:
    """torch computes with signed ones, which must wrap."""
    draws = layer_draws(keys_of(5, step=1), layers=3, elements=4096)
    codes, factors, offsets = (
        np.asarray(t).astype(np.int64).astype(np.uint64)
        for t in (draws.codes, draws.factors, draws.offsets)
    )
    whole = codes[None] * factors[:, 1:2] + offsets[:, 1:2]
    values = (whole & np.uint64(0xFFFFFFFF)) ^ np.uint64(1 << 31)
    expected = values < round(0.7 * 2**32)
    assert np.array_equal(draws.kept(1, 4096, 0.3).numpy(), expected)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1e-4])
def test_the_share_that_is_kept_is_the_one_asked_for(rate: float) -> None:
    elements, samples = 50_000, 64
    kept = masks(keys_of(samples), elements=elements, rate=rate)
    sigma = (rate * (1 - rate) / (elements * samples)) ** 0.5
    assert 1 - kept.double().mean().item() == pytest.approx(rate, abs=4 * sigma)
    paths = layer_draws(keys_of(100_000), layers=1, elements=0).kept_samples(0, rate)
    sigma = (rate * (1 - rate) / 100_000) ** 0.5
    assert 1 - paths.double().mean().item() == pytest.approx(rate, abs=4 * sigma)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.double().flatten(), b.double().flatten()]))[0, 1])


@pytest.mark.parametrize(
    "other",
    [{"step": 1}, {"epoch": 1}, {"seed": 1}, {"layer": 1}],
    ids=lambda other: next(iter(other)),
)
def test_masks_of_other_steps_epochs_seeds_and_layers_are_independent(other: dict) -> None:
    layer = other.pop("layer", 0)
    first = masks(keys_of(64), elements=20_000)
    second = masks(keys_of(64, **other), elements=20_000, layer=layer)
    assert abs(correlation(first, second)) < 4 / (64 * 20_000) ** 0.5


def test_masks_of_two_samples_and_of_two_elements_are_independent() -> None:
    """As many pairs are as far apart as chance makes them: the largest of n is near 4.5 sigma."""
    for rows in (masks(keys_of(300), elements=20_000), masks(keys_of(20_000), elements=300).T):
        found = torch.corrcoef(rows.double()).fill_diagonal_(0)
        scaled = found * rows.shape[1] ** 0.5  # a standard normal each
        assert scaled.abs().max() < 6
        assert scaled.std().item() == pytest.approx(1.0, abs=0.03)


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    draws = layer_draws(keys_of(4000), layers=2, elements=50)
    ones = torch.ones(4000, 5, 10)
    for module in (SampleDropout(0.25), DropPath(0.25)):
        out = module(ones, draws, 1)
        assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
        assert out.mean().item() == pytest.approx(1.0, abs=0.04)
    whole = DropPath(0.25)(ones, draws, 1).flatten(1)
    assert torch.equal(whole.amin(dim=1), whole.amax(dim=1))  # all of a sample or nothing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_passes_where_the_value_did(dtype: torch.dtype) -> None:
    draws = layer_draws(keys_of(6), layers=1, elements=40)
    values = torch.randn(6, 40, dtype=dtype, requires_grad=True)
    out = SampleDropout(0.5)(values, draws, 0)
    out.sum().backward()
    assert out.dtype == dtype
    assert values.grad is not None
    assert torch.equal(values.grad, torch.where(out == 0, 0.0, 2.0).to(dtype))


def test_only_models_that_drop_want_keys() -> None:
    assert vit.drops(CONFIG)
    assert vit.drops(replace(CONFIG, dropout=0.0))
    assert not vit.drops(replace(CONFIG, dropout=0.0, drop_path=0.0))
    assert not vit.drops(vit.BiTConfig())
