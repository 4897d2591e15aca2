"""Class names of a checkpoint come from the files beside it, or are unknown."""

import json
from pathlib import Path
from typing import Any

import pytest

from vit import BadCheckpoint, checkpoint_class_names


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"label_names": ["cat", "dog"]}, ("cat", "dog")),
        ({"id2label": {"1": "dog", "0": "cat"}}, ("cat", "dog")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, None),
        ({"id2label": {"0": "cat", "2": "dog"}}, None),
        ({"id2label": {"0": "cat", "1": 7}}, None),
        ({"label_names": "cat"}, None),
        ({}, None),
    ],
)
def test_of_timm_and_of_hugging_face(
    tmp_path: Path, config: dict[str, Any], expected: tuple[str, ...] | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert checkpoint_class_names(tmp_path) == expected
    assert checkpoint_class_names(tmp_path / "model.safetensors") == expected


def test_no_file_is_no_names_and_a_broken_one_is_named(tmp_path: Path) -> None:
    assert checkpoint_class_names(tmp_path) is None
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        checkpoint_class_names(tmp_path)
