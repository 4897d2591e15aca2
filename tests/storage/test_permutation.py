import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.permutation import Permutation


@given(size=st.integers(1, 5000), key=st.text(max_size=8))
def test_forward_is_a_permutation_and_inverse_undoes_it(size: int, key: str) -> None:
    there = Permutation(size, key).forward(np.arange(size))
    assert np.array_equal(np.sort(there), np.arange(size))
    assert np.array_equal(Permutation(size, key).inverse(there), np.arange(size))


@given(size=st.integers(1, 10**12), data=st.data())
def test_single_elements_agree_with_the_whole_at_any_size(size: int, data: st.DataObject) -> None:
    x = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)))
    shuffle = Permutation(size, "k")
    there = shuffle.forward(x)
    assert there.min() >= 0
    assert there.max() < size
    assert np.array_equal(shuffle.inverse(there), x)


def test_the_permutation_of_a_key_never_changes() -> None:  # it is part of what a run promises
    assert Permutation(10, "golden").forward(np.arange(10)).tolist() == [
        3,
        4,
        8,
        2,
        0,
        7,
        5,
        9,
        1,
        6,
    ]


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_small_permutations_are_drawn_evenly(size: int) -> None:
    draws = 4_000
    counts: dict[tuple[int, ...], int] = {}
    for key in range(draws):
        one = tuple(Permutation(size, f"{key}").forward(np.arange(size)).tolist())
        counts[one] = counts.get(one, 0) + 1
    permutations = int(np.prod(np.arange(1, size + 1)))
    assert len(counts) == permutations
    expected = draws / permutations
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
    freedom = permutations - 1
    assert chi2 < freedom + 5 * (2 * freedom) ** 0.5  # five standard deviations


@pytest.mark.parametrize("size", [1000, 1437, 65536, 100_003])
def test_places_are_spread_evenly_over_keys(size: int) -> None:
    """Where neighbours land: 10 x 10 table of (place of x, place of x + 1), against
    independence."""
    table = np.zeros((10, 10))
    for key in range(40):
        there = Permutation(size, f"{key}").forward(np.arange(1000)) * 10 // size
        np.add.at(table, (there[:-1], there[1:]), 1)
    expected = table.sum() / 100
    assert float(((table - expected) ** 2 / expected).sum()) < 99 + 5 * (2 * 99) ** 0.5
