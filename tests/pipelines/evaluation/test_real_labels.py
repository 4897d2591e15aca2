import json
import re
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.real_labels import read_real
from storage.index import INDEX_ROW, SampleIndex, name_hash


def index_of(keys: list[str], labels: list[int]) -> SampleIndex:
    rows = np.zeros(len(keys), INDEX_ROW)
    rows["name"] = [name_hash(f"{key}.jpg") for key in keys]
    rows["label"] = labels
    return SampleIndex(split="val", rows=rows, shards=(), num_classes=10)


IMAGENET = index_of([f"ILSVRC2012_val_{i:08d}" for i in (3, 1, 2)], [7, 5, 6])
NAMED = index_of(["cat", "dog", "cow"], [5, 6, 7])


def read(tmp_path: Path, content: object, index: SampleIndex) -> tuple[frozenset[int], ...]:
    path = tmp_path / "real.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_real(path, index)


def test_imagenets_images_are_found_by_their_number_in_any_order(tmp_path: Path) -> None:
    found = read(tmp_path, [[5, 1], [], [7]], IMAGENET)
    assert found == (frozenset({7}), frozenset({5, 1}), frozenset())


def test_other_images_are_taken_in_the_order_of_the_split(tmp_path: Path) -> None:
    assert read(tmp_path, [[5], [6, 0], []], NAMED) == (frozenset({5}), frozenset({6, 0}), set())


def test_an_object_names_samples_by_their_key(tmp_path: Path) -> None:
    found = read(tmp_path, {"cow": [7], "dog": [1, 6]}, NAMED)
    assert found == (frozenset(), frozenset({1, 6}), frozenset({7}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[1,", "wanted JSON, a list of lists of labels"),
        (3, "wanted a list of lists of labels, found int"),
        ([[1], [2]], "2 entries, but split 'val' has 3 samples"),
        ([[5], [6], 7], "entry 2: wanted a list of labels, found 7"),
        ([[5], [6], [True]], "entry 2: wanted a list of labels, found [True]"),
        ([[5], [6], [10]], "entry 2: labels [10], but the dataset has classes 0 to 9"),
        ([[], [], []], "no entry has a label"),
        ([[6], [7], [5]], "only 0% of its entries hold the label that the sample has"),
        ({"horse": [5]}, "none of its 1 keys, such as 'horse', is the key of a sample"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, content, NAMED)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json: no such file"):
        read_real(tmp_path / "none.json", NAMED)
