"""Selections from large splits: the same as drawn in the process, but drawn once and mapped."""

import mmap
import tempfile
from pathlib import Path

import numpy as np
import pytest

from storage.errors import BadSelection
from storage.index import INDEX_ROW, SampleIndex
from storage.selection import Selection, select
from storage.selection_cache import drawn

LABELS = np.random.default_rng(0).integers(0, 50, 1_200_000)
SELECTIONS = [
    Selection(classes=(3, 1)),
    Selection(per_class=100, seed=4),
    Selection(samples=5_000, skip=7, seed=1),
]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def index(labels: np.ndarray = LABELS) -> SampleIndex:
    rows = np.zeros(len(labels), dtype=INDEX_ROW)
    rows["label"] = labels
    return SampleIndex(split="train", rows=rows, shards=(), num_classes=50)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_mapped_draw_equals_one_in_the_process(selection: Selection) -> None:
    wanted = select(index(), selection)
    for _ in range(2):  # drawn, then found
        found = drawn(index(), selection, "digest")
        assert found[0].base is not None
        assert isinstance(found[0].base.base, mmap.mmap)
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype == np.int64
            assert np.array_equal(one, other)


def test_each_dataset_and_selection_has_a_file_of_its_own(own_folder: Path) -> None:
    first = drawn(index(), SELECTIONS[0], "digest")[0]
    assert len(drawn(index(), SELECTIONS[0], "digest")[0]) == len(first)
    other = drawn(index(np.roll(LABELS, 1)), SELECTIONS[0], "another")[0]
    assert not np.array_equal(first, other)
    drawn(index(), SELECTIONS[1], "digest")
    assert len(list(own_folder.rglob("selection-*.npy"))) == 3


def test_a_mistake_leaves_no_file(own_folder: Path) -> None:
    with pytest.raises(BadSelection):
        drawn(index(), Selection(classes=(99,)), "digest")
    assert not list(own_folder.rglob("*.npy"))
