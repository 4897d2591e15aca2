import numpy as np
import pytest

from storage.dataset import Dataset
from storage.errors import BadSelection
from storage.index import SampleIndex, load_index
from storage.selection import Selection, select


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
    with pytest.raises(BadSelection, match=r"no classes \[10\], only 10"):
        select(index, Selection(classes=(0, 10)))


def test_samples_are_nested_and_in_proportion(index: SampleIndex) -> None:
    few, more = (select(index, Selection(samples=n)) for n in (100, 800))
    assert len(few[0]) == 100
    assert set(few[0].tolist()) < set(more[0].tolist())
    share = np.bincount(index.labels) / len(index)
    assert np.abs(np.bincount(more[1]) / 800 - share).max() < 0.03


def test_what_is_skipped_is_what_another_selection_takes(index: SampleIndex) -> None:
    train, held, both = (
        set(select(index, Selection(samples=n, skip=skip, seed=3))[0].tolist())
        for n, skip in ((800, 0), (200, 800), (1000, 0))
    )
    assert len(held) == 200
    assert not train & held
    assert train | held == both


def test_samples_are_drawn_among_the_selected_classes(index: SampleIndex) -> None:
    positions, labels = select(index, Selection(classes=(3, 8), samples=50))
    assert len(positions) == 50
    assert np.array_equal(np.array([3, 8])[labels], index.labels[positions])


def test_skip_alone_leaves_the_rest(index: SampleIndex) -> None:
    assert len(select(index, Selection(skip=1000))[0]) == len(index) - 1000


def test_skipping_everything_is_an_error(index: SampleIndex) -> None:
    with pytest.raises(BadSelection, match="1000000 skipped"):
        select(index, Selection(samples=1, skip=10**6))


def test_labels_merge_classes(index: SampleIndex) -> None:
    odd = Selection(labels=(0, 1) * 5)
    positions, labels = select(index, odd)
    assert len(positions) == len(index)
    assert np.array_equal(labels, np.asarray(index.labels) % 2)
    assert odd.num_classes(10) == 2
    assert not odd.everything
    _, few = select(index, Selection(classes=(9, 1, 2), labels=(1, 1, 0), per_class=4))
    assert np.bincount(few).tolist() == [4, 8]


def test_labels_that_do_not_fit_the_dataset_are_named(index: SampleIndex) -> None:
    with pytest.raises(BadSelection, match="2 entries, but the dataset has 10"):
        select(index, Selection(labels=(0, 1)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": (1, 1)},
        {"classes": ()},
        {"per_class": 0},
        {"samples": 0},
        {"skip": -1},
        {"per_class": 1, "samples": 1},
        {"per_class": 1, "skip": 1},
        {"labels": (0, 2)},
        {"labels": ()},
        {"classes": (1, 2), "labels": (0, 0, 1)},
    ],
)
def test_contradictory_selections_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadSelection):
        Selection(**wrong)  # pyright: ignore[reportArgumentType]  wrong on purpose or by **


def test_class_names_follow_the_selection_and_merged_ones_are_joined() -> None:
    names = ("cat", "dog", "cow")
    assert Selection().class_names(names) == names
    assert Selection(classes=(2, 0)).class_names(names) == ("cow", "cat")
    assert Selection(labels=(0, 1, 0)).class_names(names) == ("cat+cow", "dog")
    for wrong in (Selection(classes=(3,)), Selection(labels=(0, 1))):
        with pytest.raises(BadSelection):
            wrong.class_names(names)
