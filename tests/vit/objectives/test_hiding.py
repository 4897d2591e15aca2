"""What is hidden of a sample follows from its key alone."""

import torch

import vit
from vit.objectives.hiding import patch_order, replacements, take

PATCHES = 196


def keys_of(samples: int, *, seed: int = 0, epoch: int = 0) -> torch.Tensor:
    index = torch.arange(samples)
    return vit.sample_keys(seed=seed, step=-1, epoch=torch.full_like(index, epoch), index=index)


def test_it_does_not_depend_on_the_batch() -> None:
    keys = keys_of(64)
    order = patch_order(keys, PATCHES)
    source = replacements(keys, order, 98)
    for part in torch.arange(64).split(7):
        assert torch.equal(patch_order(keys[part], PATCHES), order[part])
        assert torch.equal(replacements(keys[part], order[part], 98), source[part])
    assert torch.equal(order.sort(dim=1).values, torch.arange(PATCHES).expand(64, -1))


def test_another_epoch_seed_or_sample_hides_others() -> None:
    orders = [
        patch_order(keys, PATCHES)
        for keys in (keys_of(32), keys_of(32, epoch=1), keys_of(32, seed=1))
    ]
    rows = torch.cat(orders)
    assert len(rows.unique(dim=0)) == len(rows)


def test_every_patch_is_hidden_equally_often() -> None:
    hidden = patch_order(keys_of(20_000), PATCHES)[:, :147]
    counts = torch.bincount(hidden.flatten(), minlength=PATCHES).double()
    expected = 20_000 * 0.75
    deviation = (20_000 * 0.75 * 0.25) ** 0.5
    assert ((counts - expected).abs() < 4.5 * deviation).all()


def test_eight_of_ten_become_the_mask_token_and_one_another_patch() -> None:
    keys = keys_of(2_000)
    order = patch_order(keys, PATCHES)
    source = replacements(keys, order, 98)
    own = torch.arange(PATCHES)
    seen = source.gather(1, order[:, 98:])
    assert torch.equal(seen, order[:, 98:])  # what is not to be predicted stays
    corrupted = source.gather(1, order[:, :98])
    masked = (corrupted == -1).double().mean()
    kept = (corrupted == order[:, :98]).double().mean()
    assert abs(masked - 0.8) < 0.005
    assert abs(kept - 0.1) < 0.005
    other = source[(source >= 0) & (source != own)]
    assert abs(len(other) / corrupted.numel() - 0.1) < 0.005
    assert len(other.unique()) == PATCHES


def test_take_gives_rows_in_the_order_asked_for() -> None:
    values = torch.arange(12.0).reshape(1, 4, 3)
    assert take(values, torch.tensor([[2, 0]])).tolist() == [[[6, 7, 8], [0, 1, 2]]]
