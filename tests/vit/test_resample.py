import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom
from torch.nn import functional as F

from vit.resample import Convention, resize_patch_kernel, resize_position_table

CONVENTIONS: list[Convention] = ["align-corners", "half-pixel", "bicubic-antialias"]
grids = st.tuples(st.integers(2, 12), st.integers(2, 12))


def table_of(grid, prefix, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, prefix + grid[0] * grid[1], 3, generator=generator)


@given(grids, st.integers(0, 3), st.sampled_from(CONVENTIONS))
@settings(max_examples=50, deadline=None)
def test_resizing_to_the_same_grid_returns_the_same_table(grid, prefix, convention):
    table = table_of(grid, prefix)
    same = resize_position_table(table, grid, grid, num_prefix_tokens=prefix, convention=convention)
    assert torch.equal(same, table)


@given(grids, grids, st.integers(0, 3), st.sampled_from(CONVENTIONS))
@settings(max_examples=100, deadline=None)
def test_constants_stay_constant_and_prefix_rows_stay(old, new, prefix, convention):
    table = torch.full((1, prefix + old[0] * old[1], 2), 0.7)
    table[:, :prefix] = 5.0
    resized = resize_position_table(
        table, old, new, num_prefix_tokens=prefix, convention=convention
    )
    assert resized.shape == (1, prefix + new[0] * new[1], 2)
    assert torch.equal(resized[:, :prefix], table[:, :prefix])
    torch.testing.assert_close(resized[:, prefix:], torch.full_like(resized[:, prefix:], 0.7))


@given(grids, grids)
@settings(max_examples=100, deadline=None)
def test_the_default_is_scipys_zoom_of_order_one(old, new):
    table = table_of(old, 1)
    resized = resize_position_table(table, old, new, num_prefix_tokens=1)
    image = table[0, 1:].reshape(*old, 3).double().numpy()
    reference = np.array(zoom(image, (new[0] / old[0], new[1] / old[1], 1), order=1))
    np.testing.assert_allclose(resized[0, 1:].reshape(*new, 3).numpy(), reference, atol=1e-5)


def test_the_three_conventions_differ():
    table = table_of((4, 4), 0)
    a, b, c = (
        resize_position_table(table, (4, 4), (7, 9), convention=convention)
        for convention in CONVENTIONS
    )
    assert (a - b).abs().max() > 0.05
    assert (b - c).abs().max() > 0.05


def test_a_table_of_another_grid_is_refused():
    with pytest.raises(ValueError, match="1 prefix rows and a 4x5 grid"):
        resize_position_table(table_of((4, 4), 1), (4, 5), (8, 8), num_prefix_tokens=1)


def test_half_precision_comes_back_in_half_precision():
    table = table_of((4, 4), 1).bfloat16()
    resized = resize_position_table(
        table, (4, 4), (6, 6), num_prefix_tokens=1, convention="bicubic-antialias"
    )
    assert resized.dtype == torch.bfloat16


@given(st.integers(2, 9), st.integers(0, 9), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_a_larger_patch_kernel_sees_resized_patches_as_the_old_one_saw_them(old, more, seed):
    new = old + more
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(4, 3, old, old, generator=generator)
    patches = torch.randn(2, 3, old, old, generator=generator)
    resized = F.interpolate(patches, size=(new, new), mode="bilinear")
    seen = F.conv2d(resized, resize_patch_kernel(kernel, new))
    torch.testing.assert_close(seen, F.conv2d(patches, kernel), atol=1e-3, rtol=0)


def test_a_patch_kernel_of_the_same_size_is_the_same():
    kernel = torch.randn(4, 3, 8, 8)
    assert resize_patch_kernel(kernel, 8) is kernel


def test_a_smaller_patch_kernel_is_the_best_fit_on_white_noise():
    """Any other kernel sees resized noise less like the old one saw the noise."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(1, 1, 8, 8, generator=generator)
    best = resize_patch_kernel(kernel, 4)
    basis = torch.eye(64).reshape(64, 1, 8, 8)
    resize = F.interpolate(basis, size=(4, 4), mode="bilinear").flatten(1)  # [64, 16]

    def error(candidate):
        return (resize @ candidate.flatten() - kernel.flatten()).square().sum().item()

    for _ in range(20):
        other = best + 0.1 * torch.randn(best.shape, generator=generator)
        assert error(best) < error(other)
