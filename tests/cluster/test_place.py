"""What `ray_config.yaml` says changes no result: the table of docs/reliability.md, row by row."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.cluster.support import place_worker
from tests.cluster.support.groups import run_group
from tests.cluster.support.place_worker import CONFIG, WAYS, Way, batch, build, plain_torch

WORLDS = (1, 2)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The final weights of every way to place the stage, on one worker and on two."""
    folder = tmp_path_factory.mktemp("place")
    for world in WORLDS:
        run_group(place_worker.main, world, folder, seconds=300)
    return folder


def weights(folder: Path, way: Way, world: int) -> dict[str, Tensor]:
    return load_file(folder / f"{way.name}-w{world}.safetensors")


def without_key_bias(name: str, value: Tensor) -> Tensor:
    """A tensor without the biases of the keys, which stand between the queries' and the values'."""
    if not name.endswith("attn.qkv.bias"):
        return value
    query, _, own = value.chunk(3)
    return torch.cat([query, own])


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_the_place_changes_weights_by_rounding_alone(trained: Path, way: Way, world: int) -> None:
    found = weights(trained, way, world)
    expected = plain_torch()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        a, b = (without_key_bias(name, tensor) for tensor in (found[name], value))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("world", WORLDS)
def test_level_2_gives_the_bits_of_level_1(trained: Path, world: int) -> None:
    expected = weights(trained, Way(level=1), world)
    for name, value in weights(trained, Way(level=2), world).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_biases_of_keys_differ_and_the_function_does_not(trained: Path, way: Way) -> None:
    """Their gradient is zero but for rounding, of which Adam makes whole steps."""
    expected = plain_torch()
    found = weights(trained, way, 2)
    gaps = [
        (found[name] - expected[name]).chunk(3)[1].abs().max()
        for name in expected
        if name.endswith("attn.qkv.bias")
    ]
    assert len(gaps) == CONFIG.depth
    assert max(gaps) > 1e-6  # were it smaller, the exception could go
    images, _, _ = batch(0)
    model = build().eval()
    model.load_state_dict(expected)
    logits = model(images)
    model.load_state_dict(found)
    torch.testing.assert_close(model(images), logits, rtol=1e-5, atol=1e-5)
