"""Masked patch prediction, appendix B.1.2 of arXiv:2010.11929."""

import pytest
import torch
from torch import Tensor

import vit
from vit.objectives import Masked, objective_of
from vit.objectives.masked_patch import MaskedPatch, colour_classes, colour_of

CONFIG = vit.ViTConfig(
    image_size=24, patch_size=8, width=32, depth=2, heads=4, mlp_dim=64, num_classes=0
)


@pytest.fixture
def objective() -> MaskedPatch:
    found = objective_of("masked-patch", CONFIG, Masked())
    assert isinstance(found, MaskedPatch)
    return found


def patches_of(colours: list[tuple[float, float, float]]) -> Tensor:
    """An image of 3 x 3 patches in these colours, each in [0, 1]."""
    pixels = torch.tensor(colours).T.reshape(1, 3, 3, 3) * 2 - 1
    return pixels.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def test_a_colour_is_three_bits_a_channel() -> None:
    colours = [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.0, 0.0), (0.0, 0.25, 0.0)]
    images = patches_of(colours + [(0.0, 0.0, 0.13)] * 5)
    classes = colour_classes(images, CONFIG)
    assert classes.tolist() == [[0, 511, 4 * 64, 2 * 8, *[1] * 5]]
    back = colour_of(classes, 3)
    assert (back[0, 2] + 1).div(2).tolist() == pytest.approx([9 / 16, 1 / 16, 1 / 16])
    assert torch.equal(colour_classes(patches_of((back[0] / 2 + 0.5).tolist()), CONFIG), classes)


def test_the_network_sees_what_the_sources_say(objective: MaskedPatch) -> None:
    network = objective.network(seed=1).eval()
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    nothing_changed = torch.arange(9).expand(2, -1)
    every = torch.arange(9).expand(2, -1)
    logits = network(images, None, nothing_changed, every)
    tokens = network.forward_features(images)[:, 1:]
    torch.testing.assert_close(logits, network.pretext["colours"](tokens))
    all_masked = torch.full((2, 9), -1)
    blind = network(images, None, all_masked, every)
    assert torch.equal(blind[0], blind[1])  # nothing of the image is left


def test_targets_and_measures(objective: MaskedPatch) -> None:
    images = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keys = torch.arange(4)
    asked = objective.ask(images, {}, keys, training=True)
    hidden = asked.hints[1]
    assert hidden.shape == (4, 5)  # half of nine, rounded up
    assert torch.equal(asked.targets, colour_classes(images, CONFIG).gather(1, hidden))
    perfect = 100.0 * torch.nn.functional.one_hot(asked.targets, 512).float()
    assert objective.loss(perfect, asked.targets).item() == pytest.approx(0, abs=1e-6)
    assert objective.measure(perfect, asked.targets).tolist() == [[1.0, 0.0]] * 4
    wrong = objective.measure(perfect.roll(1, dims=2), asked.targets)
    assert wrong[:, 0].tolist() == [0.0] * 4
    _, seen, made = objective.picture(asked, perfect)
    shown = colour_classes(made, CONFIG).gather(1, hidden)
    assert torch.equal(shown, asked.targets)
    assert not torch.equal(seen, made)


def test_it_learns(objective: MaskedPatch) -> None:
    """Images of one colour each: what is seen says what is hidden."""
    network = objective.network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses: list[float] = []
    for step in range(60):
        colours = torch.randint(0, 2, (16, 3, 1, 1), generator=generator).float() * 2 - 1
        images = colours.expand(-1, -1, 24, 24)
        keys = torch.arange(16) + 1000 * step
        asked = objective.ask(images, {}, keys, training=True)
        loss = objective.loss(network(images, None, *asked.hints), asked.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 6
    assert losses[-1] < 0.5
