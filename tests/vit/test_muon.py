"""Muon is torch's over steps, and to the last bit the same wherever a matrix is cut."""

import pytest
import torch
from torch import nn

import vit
from tests.vit.support.two_workers import by_one, by_two
from tests.vit.test_lamb import MODEL, network, train
from vit.muon import Muon, orthogonal

CONFIG = vit.OptimConfig(name="muon", peak_lr=0.03, weight_decay=0.05, momentum=0.95, eps=1e-3)


def test_weights_equal_those_of_torch_over_steps() -> None:
    """torch.optim.Muon for the blocks' matrices beside torch.optim.AdamW for the others."""
    ours, theirs = network(), network()
    found = train(ours, vit.build_optimizer(vit.param_groups(ours, CONFIG), CONFIG))  # type: ignore[arg-type]
    groups = vit.param_groups(theirs, CONFIG)  # type: ignore[arg-type]  # a model

    class Both(torch.optim.Optimizer):
        def __init__(self) -> None:
            matrices = [g for g in groups if g["update"] == "orthogonal"]
            others = [g for g in groups if g["update"] == "plain"]
            assert len(matrices) == 1
            self.muon = torch.optim.Muon(
                matrices[0]["params"],
                lr=0.03,
                weight_decay=0.05,
                momentum=0.95,
                adjust_lr_fn="match_rms_adamw",
            )
            self.adamw = torch.optim.AdamW(
                [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in others],
                lr=0.03,
                eps=1e-3,
            )
            self.param_groups = self.muon.param_groups + self.adamw.param_groups

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.muon.zero_grad()
            self.adamw.zero_grad()

        def step(self) -> None:  # type: ignore[override]
            self.muon.step()
            self.adamw.step()

    expected = train(theirs, Both())
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    start = dict(network().named_parameters())
    assert all(not torch.equal(value, start[name]) for name, value in expected.items())


def test_matrices_of_the_blocks_alone_are_made_orthogonal() -> None:
    groups = vit.param_groups(network(), CONFIG)  # type: ignore[arg-type]
    by_update = {
        update: {name for g in groups if g["update"] == update for name in g["names"]}
        for update in ("orthogonal", "plain")
    }
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert by_update["orthogonal"] == {
        f"blocks.{i}.{layer}.weight" for i in range(MODEL.depth) for layer in layers
    }
    assert {"patch_embed.proj.weight", "head.weight", "pos_embed"} <= by_update["plain"]
    decayed = {name for g in groups if g["weight_decay"] for name in g["names"]}
    assert {"patch_embed.proj.weight", "head.weight"} <= decayed


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_singular_values_end_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix).float())
    assert values.min() > 0.3
    assert values.max() < 1.4
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape, dtype=torch.bfloat16))


@pytest.mark.parametrize("cut", [1, 6, 24, 31])
def test_a_matrix_cut_between_workers_changes_bit_for_bit_as_a_whole(cut: int) -> None:
    """Matrices of 4 x 6 and 5 x 3 lie behind each other, and one of two workers has `cut`."""

    def make(tensors: list[nn.Parameter]) -> Muon:
        group = {"params": tensors, "weight_decay": 0.1, "update": "orthogonal"}
        return Muon([group], lr=0.1, momentum=0.95, betas=(0.9, 0.999), eps=1e-8)

    values, *gradients = torch.randn(4, 39, generator=torch.Generator().manual_seed(0))
    given = (make, [(4, 6), (5, 3)], values, torch.stack(gradients))
    assert torch.equal(by_two(*given, cut=cut), by_one(*given))


def test_a_matrix_keeps_one_state_and_all_else_two() -> None:
    model = network()
    optimizer = vit.build_optimizer(vit.param_groups(model, CONFIG), CONFIG)  # type: ignore[arg-type]
    assert isinstance(optimizer, Muon)
    kept = {group["update"]: optimizer.moments(group) for group in optimizer.param_groups}
    assert kept == {"orthogonal": ("momentum_buffer",), "plain": ("exp_avg", "exp_avg_sq")}
