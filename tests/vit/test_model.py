from dataclasses import replace

import pytest
import torch
from torch import nn

import vit
from vit.dropout import DropPath
from vit.embed import sincos_table
from vit.model import ViT

SMALL = vit.ViTConfig(
    image_size=(32, 48), patch_size=8, width=64, depth=2, heads=2, mlp_dim=128, num_classes=5
)


def small_model(**changes) -> ViT:
    return vit.build_model(replace(SMALL, **changes))


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pool", ["token", "gap", "map"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("pos_embed", ["none", "learned-1d", "learned-2d", "sincos-2d", "relative"])
@pytest.mark.parametrize("registers", [0, 3])
def test_every_combination_has_its_shapes_and_gradients(pool, head, pos_embed, registers):
    model = small_model(pool=pool, head=head, pos_embed=pos_embed, registers=registers)
    nn.init.normal_(model.get_parameter("head.weight"))  # zero lets no gradient through
    tokens = model.forward_features(images())
    assert tokens.shape == (2, int(pool == "token") + registers + 24, 64)
    assert model.num_prefix_tokens == tokens.shape[1] - 24
    assert model.forward_head(tokens, pre_logits=True).shape == (2, 64)
    logits = model(images())
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_same_seed_gives_same_weights_and_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    first, second = small_model(), small_model()
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), (_, b) in zip(
        first.state_dict().items(), second.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def test_another_seed_gives_other_weights():
    first, second = vit.build_model(SMALL, seed=0), vit.build_model(SMALL, seed=1)
    name = "blocks.0.attn.qkv.weight"
    assert not torch.equal(first.get_parameter(name), second.get_parameter(name))


def test_a_tensor_without_initialisation_is_found(monkeypatch):
    make_tokens = ViT.make_tokens

    def with_a_forgotten_one(self, config):
        make_tokens(self, config)
        self.forgotten = nn.Parameter(torch.empty(3))

    monkeypatch.setattr(ViT, "make_tokens", with_a_forgotten_one)
    with pytest.raises(AssertionError, match="forgotten"):
        vit.build_model(SMALL)


def test_weights_that_nobody_drew_are_nan_and_what_is_no_weight_is_there():
    config = replace(SMALL, pos_embed="sincos-2d")
    drawn, empty = vit.build_model(config), vit.build_model(config, seed=None)
    assert all(parameter.isnan().all() for parameter in empty.parameters())
    assert [name for name, _ in empty.named_buffers()] == ["pos_table"]
    empty.load_state_dict(drawn.state_dict())
    assert torch.equal(empty.eval()(images()), drawn.eval()(images()))


def test_initialisation_is_the_references():
    config = replace(vit.VARIANTS["vit_b16"], depth=1, head="mlp", head_bias_init=-10.0)
    weights = vit.build_model(config).state_dict()
    xavier = (6 / (768 + 768)) ** 0.5
    for part in weights["blocks.0.attn.qkv.weight"].split(768):
        assert part.abs().max() == pytest.approx(xavier, rel=1e-3)
        assert part.std() == pytest.approx(xavier / 3**0.5, rel=1e-2)
    xavier_mlp = (6 / (768 + 3072)) ** 0.5
    assert weights["blocks.0.mlp.fc1.weight"].abs().max() == pytest.approx(xavier_mlp, rel=1e-3)
    assert 0 < weights["blocks.0.mlp.fc1.bias"].std() < 2e-6
    assert weights["pos_embed"].std() == pytest.approx(0.02, rel=1e-2)
    assert weights["patch_embed.proj.weight"].std() == pytest.approx(768**-0.5, rel=1e-2)
    assert weights["pre_logits.fc.weight"].std() == pytest.approx(768**-0.5, rel=1e-2)
    assert weights["head.weight"].abs().max() == 0
    assert (weights["head.bias"] == -10).all()
    for name in ("cls_token", "blocks.0.attn.qkv.bias", "patch_embed.proj.bias"):
        assert weights[name].abs().max() == 0, name


def test_a_sincos_row_is_sin_x_cos_x_sin_y_cos_y():
    table = sincos_table((2, 3), 8)[0]
    assert table.shape == (6, 8)
    x, y = 2.0, 1.0  # last row of the table
    omega = torch.tensor([1.0, 1e-4])
    expected = torch.cat(
        [(x * omega).sin(), (x * omega).cos(), (y * omega).sin(), (y * omega).cos()]
    )
    torch.testing.assert_close(table[5], expected)


def test_a_learned_2d_table_is_the_sum_of_its_row_and_column():
    model = small_model(pos_embed="learned-2d", pool="gap")
    zero = torch.zeros(1, 24, 64)
    positions = model.add_tokens(zero)[0].unflatten(0, (4, 6))  # [h, w, D]
    assert model.pos_embed_x is not None
    torch.testing.assert_close(positions[:, 5, :32], model.pos_embed_x[0, :, 5].expand(4, -1))
    assert model.pos_embed_y is not None
    torch.testing.assert_close(positions[2, :, 32:], model.pos_embed_y[0, 2].expand(6, -1))


def test_relative_positions_see_only_distances():
    """With a table of zeros the model is the one without positions; with any other it is not."""
    model = small_model(pos_embed="relative", pool="gap", head="mlp")
    plain = small_model(pos_embed="none", pool="gap", head="mlp")
    weights = {k: v for k, v in model.state_dict().items() if not k.endswith("rel_pos")}
    plain.load_state_dict(weights)
    relative = model.forward_features(images())
    assert not torch.allclose(relative, plain.forward_features(images()), atol=1e-5)
    for i in range(2):
        nn.init.zeros_(model.get_parameter(f"blocks.{i}.attn.rel_pos"))
    torch.testing.assert_close(model.forward_features(images()), plain.forward_features(images()))


def test_checkpointing_changes_no_gradient():
    model = small_model(head="mlp")
    nn.init.normal_(model.get_parameter("head.weight"))
    gradients = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(images()).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("pos_embed", ["learned-1d", "relative"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_computing_the_class_token_alone_changes_no_logit(pos_embed, checkpointing):
    model = small_model(pos_embed=pos_embed, registers=2)
    nn.init.normal_(model.get_parameter("head.weight"))
    model.set_grad_checkpointing(checkpointing)
    whole = model.forward_head(model.forward_features(images()))
    torch.testing.assert_close(model(images()), whole)


def test_stochastic_depth_grows_from_block_to_block():
    deep = small_model(depth=3, drop_path=0.2)
    rates = [m.rate for m in deep.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(32, 48\) pixels, found \(32, 32\)"):
        small_model()(torch.zeros(1, 3, 32, 32))


def test_a_head_of_no_classes_passes_the_features():
    model = small_model(num_classes=0)
    assert model(images()).shape == (2, 64)
    assert "head.weight" not in model.state_dict()


@pytest.mark.parametrize("pos_embed", ["learned-1d", "relative"])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_forward_compiles_without_graph_breaks(pos_embed, rate):
    torch.compiler.reset()
    model = small_model(pos_embed=pos_embed, head="mlp", registers=1, dropout=rate, drop_path=rate)
    explained = torch._dynamo.explain(model)(images(), torch.arange(2))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
