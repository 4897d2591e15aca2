import numpy as np
import pytest

from storage.dataset import Dataset, SampleIndex, Selection, load_index, select
from storage.errors import BadSelection


@pytest.fixture(scope="module")
def index(digits: Dataset) -> SampleIndex:
    return load_index(digits, "train")


def test_everything_is_selected_as_it_is(index: SampleIndex) -> None:
    positions, labels = select(index, Selection())
    assert np.array_equal(positions, np.arange(len(index)))
    assert np.array_equal(labels, index.labels)


def test_classes_are_renumbered_in_the_order_given(index: SampleIndex) -> None:
    positions, labels = select(index, Selection(classes=(7, 2)))
    assert (np.diff(positions) > 0).all()
    assert np.array_equal(np.array([7, 2])[labels], index.labels[positions])
    assert len(positions) == np.isin(index.labels, [7, 2]).sum()


def test_few_shot_takes_so_many_of_each_class(index: SampleIndex) -> None:
    positions, labels = select(index, Selection(per_class=5))
    assert np.bincount(labels).tolist() == [5] * 10
    assert len(np.unique(positions)) == 50


def test_few_shot_sets_are_nested(index: SampleIndex) -> None:
    few, more = (set(select(index, Selection(per_class=n))[0].tolist()) for n in (5, 25))
    assert few < more


def test_few_shot_depends_on_the_seed(index: SampleIndex) -> None:
    one, other = (select(index, Selection(per_class=5, seed=seed))[0] for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_per_class_beyond_what_there_is_takes_all(index: SampleIndex) -> None:
    assert len(select(index, Selection(per_class=10**6))[0]) == len(index)


def test_class_out_of_range_is_named(index: SampleIndex) -> None:
    with pytest.raises(BadSelection, match=r"classes \[10\] were asked for, the dataset has 10"):
        select(index, Selection(classes=(0, 10)))


@pytest.mark.parametrize("wrong", [{"classes": (1, 1)}, {"classes": ()}, {"per_class": 0}])
def test_contradictory_selections_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadSelection):
        Selection(**wrong)  # pyright: ignore[reportArgumentType]  wrong on purpose or by **
