"""Adapters start as nothing, train alone, and become part of the weights."""

import pytest
import torch
from torch import nn

import vit
from vit.errors import BadModel
from vit.lora import Lora, is_adapter, lora_of, merged
from vit.trained import check_train, freeze, trained_parameters

CONFIG = vit.ViTConfig(
    image_size=16, patch_size=8, width=16, depth=3, heads=2, mlp_dim=32, num_classes=4
)
ALL_MATRICES = "lora 4 qkv,proj,fc1,fc2"


def images(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def adapted(train: str, *, seed: int = 0) -> vit.ViT:
    model = vit.build_model(CONFIG, seed=1)
    nn.init.normal_(model.get_parameter("head.weight"), generator=torch.Generator().manual_seed(2))
    freeze(model, train, seed=seed)
    return model


def test_the_choice_is_spelled_in_one_way() -> None:
    assert lora_of("lora 8") == Lora(rank=8)
    assert lora_of("lora 4 qkv,fc2") == Lora(rank=4, targets=("qkv", "fc2"))
    assert lora_of("all") is None
    for wrong in ("lora", "lora 0", "lora x", "lora 4 head", "lora 4 qkv,qkv", "lora 4 qkv,"):
        with pytest.raises(BadModel, match="lora 8 qkv,proj"):
            check_train(wrong, CONFIG)


def test_a_model_that_cannot_have_them_is_refused() -> None:
    with pytest.raises(BadModel, match="no less than that of qkv itself, 16 to 48"):
        check_train("lora 17", CONFIG)
    with pytest.raises(BadModel, match="this model has none"):
        check_train("lora 4", vit.BiTConfig())
    check_train(ALL_MATRICES, CONFIG)


def test_it_starts_as_the_model_that_was_given() -> None:
    plain = vit.build_model(CONFIG, seed=1)
    plain.load_state_dict(
        {name: each for name, each in adapted("all").state_dict().items() if "lora" not in name}
    )
    model = adapted(ALL_MATRICES)
    assert torch.equal(model(images()), plain(images()))
    committed = merged(dict(model.named_parameters()))
    assert committed.keys() == dict(plain.named_parameters()).keys()
    for name, value in plain.named_parameters():
        assert torch.equal(committed[name], value), name


def test_adapters_and_head_are_trained_and_nothing_else() -> None:
    model = adapted("lora 4")
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {
        *(f"blocks.{at}.attn.qkv.lora_{part}" for at in range(3) for part in "ab"),
        *("head.weight", "head.bias"),
    }
    assert trained_parameters(CONFIG, "lora 4") == 3 * 4 * (16 + 48) + 16 * 4 + 4
    model(images()).sum().backward()
    assert {n for n, each in model.named_parameters() if each.grad is not None} == trained


def test_the_merged_weights_compute_the_same() -> None:
    model = adapted(ALL_MATRICES)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    labels = torch.arange(6) % 4
    before = model(images()).detach()
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images()), labels).backward()
        optimizer.step()
    trained = model(images()).detach()
    assert (trained - before).abs().max() > 0.1
    plain = vit.build_model(CONFIG)
    plain.load_state_dict(merged({n: p.detach() for n, p in model.named_parameters()}))
    torch.testing.assert_close(plain(images()), trained, atol=1e-5, rtol=1e-5)


def test_first_weights_follow_from_the_seed() -> None:
    first, same, other = (dict(adapted("lora 2", seed=s).named_parameters()) for s in (0, 0, 1))
    for name, value in first.items():
        assert torch.equal(value, same[name])
        if name.endswith("lora_a"):
            assert not torch.equal(value, other[name])
            assert value.abs().max() > 0
    assert sum(map(is_adapter, first)) == 6


def test_layers_are_those_of_the_blocks_they_stand_in() -> None:
    model = adapted("lora 2")
    optim = vit.OptimConfig(layer_decay=0.5, weight_decay=0.1)
    scales = {
        name: group["lr_scale"]
        for group in vit.param_groups(model, optim)
        for name in group["names"]
    }
    assert scales["blocks.0.attn.qkv.lora_a"] == 0.5**3
    assert scales["blocks.2.attn.qkv.lora_b"] == 0.5
    assert scales["head.weight"] == 1.0
